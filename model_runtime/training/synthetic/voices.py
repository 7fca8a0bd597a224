"""Who speaks: espeak-ng's voices, made many by pitch, rate, a warp, and the sound of a handset. Pure.

What makes two synthetic voices differ to a codec is the variant (formants, breath, roughness) and the warp; accents
are espeak-ng's dialects of English. Voices that are held out share neither variant nor, in a third of them, dialect
with any that is trained on.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Split = Literal["train", "held", "far"]
"""``held`` is never trained on; neither is ``far``, whose voices are odd: whispering, croaking, robots."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DIALECTS: Final = {
    "gmw/en-US": 0.5,
    "gmw/en": 0.15,
    "gmw/en-GB-x-rp": 0.1,
    "gmw/en-US-nyc": 0.1,
    "gmw/en-GB-x-gbclan": 0.05,
    "gmw/en-GB-x-gbcwmd": 0.05,
    "gmw/en-029": 0.05,
}
"""espeak-ng's dialects and their shares."""
HELD_DIALECT: Final = "gmw/en-GB-scotland"
TRAIN_VARIANTS: Final = _names(
    "Alex Alicia Andrea Andy AnxiousAndy Denis Gene Henrique Hugo Jacky Lee Marco Mario Michael Mike Nguyen"
    " RicishayMax RicishayMax2 Storm adam anika antonio aunty belinda benjamin boris caleb david ed edward f1 f2 f3 f5"
    " grandpa gustave iven iven2 iven4 john klatt klatt2 klatt4 m1 m2 m3 m4 m6 m8 marcelo max michel miguel norbert"
    " pablo paul pedro quincy rob robert sandro shelby steph steph3 travis zac robosoft robosoft3 robosoft5"
)
HELD_VARIANTS: Final = _names("Annie Diogo Gene2 edward2 f4 iven3 klatt3 linda m5 m7 steph2 victor")
FAR_VARIANTS: Final = _names("Demonic UniRobot croak grandma klatt5 robosoft7 robosoft8 whisper whisperf Tweaky")
_OF_SPLIT: Final = {"train": TRAIN_VARIANTS, "held": HELD_VARIANTS, "far": FAR_VARIANTS}
_HELD_DIALECT_SHARE: Final = 1 / 3


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice: espeak-ng's parameters, and what is done to its sound afterwards."""

    name: str
    """espeak-ng's: dialect+variant."""
    rate: int = 165
    """Words a minute, before the warp."""
    pitch: int = 50
    """0 to 99."""
    pitch_range: int = 50
    """0 (monotone) to 99."""
    warp: float = 1.0
    """Played so much faster: formants and pitch rise with it, durations fall."""
    tilt_db: float = 0.0
    """Gain at 4 kHz relative to 250 Hz."""
    peak_hz: float = 1000.0
    peak_db: float = 0.0
    """A resonance of the handset, an octave wide."""


def draw_voice(split: Split, random: np.random.Generator) -> Voice:
    """Some voice of a split: variants x dialects x pitch x rate x warp x sound."""
    variants = _OF_SPLIT[split]
    variant = variants[int(random.integers(len(variants)))]
    names, shares = list(DIALECTS), np.array(list(DIALECTS.values()))
    dialect = names[int(random.choice(len(names), p=shares))]
    if random.random() < _HELD_DIALECT_SHARE and split == "held":
        dialect = HELD_DIALECT
    warp = float(np.exp(random.uniform(np.log(0.84), np.log(1.2))))
    return Voice(
        name=f"{dialect}+{variant}",
        rate=round(random.uniform(135, 200) / warp),
        pitch=round(random.uniform(25, 75)),
        pitch_range=round(random.uniform(30, 80)),
        warp=round(warp, 2),
        tilt_db=random.uniform(-6, 6),
        peak_hz=float(np.exp(random.uniform(np.log(300), np.log(3000)))),
        peak_db=random.uniform(-6, 6),
    )
