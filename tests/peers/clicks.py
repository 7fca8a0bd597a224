"""A click track, and where its clicks lie: in a recording, and on the wire.

Clicks are short bursts of 1 kHz at irregular intervals, so a stretch of them is found at one place only. All times are
those of a click's middle, in seconds.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.peers import rtp
from tests.peers.audio import FULL_SCALE, Samples
from tests.peers.caller import Caller

Times = NDArray[np.float64]

FREQUENCY = 1_000.0
CLICK_S = 0.012
LEVEL = 0.5  # of full scale
FIRST_S = 1.0
"""When the first click comes: until then the line has found its way."""
NEAREST_S, FURTHEST_S = 0.35, 0.75
_ALIKE_S = 0.025
_MOVED_S = 0.15
"""By how much a line may be later from one click to the next."""
_APART_S = 2.0
"""By how much two clocks may differ that begin with the call, and for how long a line may stand still."""
_STRETCH = 10


def track(seconds: float, seed: int) -> tuple[Samples, Times]:
    """A click track at 8 kHz, and when its clicks are."""
    rng = np.random.default_rng(seed)
    count = int((seconds - FIRST_S) / NEAREST_S)
    times = FIRST_S + np.concatenate([[0.0], np.cumsum(rng.uniform(NEAREST_S, FURTHEST_S, count))])
    times = np.round(times[times < seconds - NEAREST_S] * 8_000) / 8_000
    half = round(CLICK_S / 2 * 8_000)
    t = np.arange(-half, half + 1) / 8_000
    click = LEVEL * np.cos(2 * np.pi * FREQUENCY * t) * np.cos(np.pi * t / CLICK_S) ** 2
    audio = np.zeros(round(seconds * 8_000), np.int16)
    for at in times:
        middle = round(at * 8_000)
        audio[middle - half : middle + half + 1] = np.rint(click * (FULL_SCALE - 1))
    return audio, times


def find(audio: Samples, rate: int) -> Times:
    """When the clicks in ``audio`` are, to a fraction of a millisecond."""
    t = np.arange(audio.size) / rate
    shifted = audio / FULL_SCALE * np.exp(-2j * np.pi * FREQUENCY * t)
    size = round(CLICK_S * rate) | 1
    sums = np.concatenate([np.zeros(size // 2 + 1), np.cumsum(shifted), np.full(size // 2, shifted.sum())])
    loudness = np.abs(sums[size:] - sums[:-size]) / size  # [n], centred
    loud = np.flatnonzero(loudness > 0.3 * LEVEL / 4)  # a whole click: half of its envelope's mean, which is a half
    if not loud.size:
        return np.zeros(0)
    groups = np.split(loud, np.flatnonzero(np.diff(loud) > 0.1 * rate) + 1)
    return np.array([np.average(group, weights=loudness[group] ** 2) for group in groups]) / rate


def pair(sent: Times, found: Times) -> Times:
    """When each of the clicks ``sent`` was found; NaN where it was not.

    First a stretch of them is looked for, then each is sought where the one before it was, give or take 150 ms. Where
    one is not there, the stretch behind it is looked for again: a line that stood still is later from there on.
    """
    shift = _shift(sent[:_STRETCH], found, 0.0) or 0.0
    out = np.full(sent.size, np.nan)
    for number, at in enumerate(sent):
        if not found.size:
            break
        nearest = found[np.argmin(np.abs(found - at - shift))]
        if abs(nearest - at - shift) <= _MOVED_S:
            out[number] = nearest
            shift = nearest - at
        else:
            moved = _shift(sent[number + 1 : number + 1 + _STRETCH], found, shift)
            shift = shift if moved is None else moved
    return out


def _shift(sent: Times, found: Times, around: float) -> float | None:
    """By how much a stretch of clicks is found later than it was sent; None where less than half of it is found."""
    best, most = None, sent.size // 2
    if not sent.size:
        return None
    near = found[(found > sent[0] + around - _APART_S) & (found < sent[-1] + around + _APART_S)]
    for one, other in itertools.product(sent, near):
        shift = float(other - one)
        alike = np.abs(near[None, :] - sent[:, None] - shift) < _ALIKE_S
        count = int(alike.any(axis=1).sum())
        if abs(shift - around) <= _APART_S and count > most:
            best, most = shift, count
    return best


@dataclass(frozen=True)
class Wire:
    """Each click of a track on the wire, on the clock ``time.monotonic()``."""

    sent: Times
    returned: Times
    """NaN where it did not come back."""


def on_the_wire(caller: Caller, times: Times) -> Wire:
    """When the clicks of the caller's track left him and came back.

    A click is where it lies in its stream, by the RTP timestamps; a stream lies on the clock where its packets do that
    were delayed least, within 4 s of the click: how late this process came to send or read one does not count.
    """
    numbers = np.arange(len(caller.spoke_at))
    sent = times[times < numbers.size * rtp.PACKET_S - 0.1]
    heard = caller.heard
    stamps = np.array([packet.timestamp for packet in heard], np.uint32)
    at_s = (stamps - stamps[0]).astype(np.int32) / 8_000
    back = pair(sent, find(rtp.samples(heard), 8_000))
    return Wire(
        sent + _origin(numbers * rtp.PACKET_S, np.array(caller.spoke_at), sent),
        back + _origin(at_s, np.array([packet.at for packet in heard]), back),
    )


def _origin(stream_s: Times, seen_at: Times, where: Times) -> Times:
    """Where the clock stood at second 0 of a stream, by what was seen within 4 s of each second in ``where``."""
    lateness = seen_at - stream_s
    near = [lateness[np.abs(stream_s - each) <= 4.0] for each in where]
    return np.array([each.min() if each.size else np.nan for each in near])
