"""The shape of a suite: callers of one kind, what each of them does, on what line, and what must come of it.

YAML, read by suite.py. Immutable values; unknown keys are refused, units stand in the names.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from config.agent_schema import SamplingSettings
from config.section import Name, Section
from model_runtime.training.augment import NoiseKind
from model_runtime.training.synthetic.script import Wording
from model_runtime.training.synthetic.voices import Split
from telephony.dtmf import check_digits

Control = Literal["muted", "noise"]
"""The same callers, only that what is tested (``Suite.probe``) is not heard, or is noise of the same length."""
Probe = Literal["says", "interrupts", "backchannels", "noises", "echo"]
ScoreName = Literal[
    "greeting",
    "greeting_once",
    "intent",
    "exact",
    "exact_once",
    "answered",
    "early",
    "gap_median_s",
    "gap_p95_s",
    "stopped",
    "stop_median_s",
    "stop_p90_s",
    "intent_after_interruption",
    "went_on",
    "finished",
    "false_starts",
    "undisturbed",
    "late_intent",
    "hung_up",
    "expected",
    "transcript",
]
"""What docs/evaluation.md explains, one by one."""

_PROBES: Final[Mapping[str, Probe]] = {"interrupt": "interrupts", "backchannel": "backchannels", "noise": "noises"}
_VERBS: Final = ("say", "interrupt", "backchannel", "noise", "silence", "wait", "dtmf", "turns")


def _shorthand(key: str) -> Callable[[Any], Any]:
    """A step's body written as one value: ``say: what are your hours``."""
    return lambda given: given if isinstance(given, dict | Section) or given is None else {key: given}


class Span(Section):
    """A time that is drawn anew by each caller, between two bounds."""

    least: float = Field(ge=0, le=600)
    most: float = Field(ge=0, le=600)

    @model_validator(mode="after")
    def _most_is_not_least(self) -> Self:
        if self.most < self.least:
            raise ValueError(f"most is {self.most}, below least, {self.least}")
        return self


def _span(given: Any) -> Any:
    """``0.8`` or ``[0.3, 1.8]``."""
    if isinstance(given, list):
        if len(given) != 2:
            raise ValueError("must be a time in seconds, or two: [least, most]")
        return {"least": given[0], "most": given[1]}
    return {"least": given, "most": given} if isinstance(given, str | int | float) else given


Seconds = Annotated[Span, BeforeValidator(_span)]
_GAP: Final = Span(least=0.7, most=1.8)
_INTO: Final = Span(least=0.7, most=1.2)


class Expectation(Section):
    """What the agent must do after a step, beyond what the scores tell anyway."""

    text: str | None = None
    """It says exactly this, words told twice counted once; ``greeting`` stands for the world's."""
    text_contains: list[str] = Field([])
    """It says each of these, in any case, punctuation left out."""
    within_s: float | None = Field(None, gt=0, le=60)
    """It begins to speak so soon after the caller has ended (after a ``wait``: after the call is up)."""
    stops_within_s: float | None = Field(None, gt=0, le=10)
    """It falls silent so soon after the caller has begun."""
    goes_on: bool = False
    """It does not stop speaking."""
    quiet: bool = False
    """It does not begin to speak until the next step."""
    hangs_up: bool = False
    """It ends the call."""

    @property
    def nothing(self) -> bool:
        """Whether nothing is expected."""
        return self == Expectation()


NOTHING: Final = Expectation()


class Utterance(Section):
    """Something said: a literal ``text``, or some way to say an ``intent`` of the world."""

    text: str | None = Field(None, min_length=1, max_length=400)
    intent: str | None = None
    """A name, or ``any``: whatever a caller may want at that point of a dialogue. Default without a text: ``any``."""
    wording: Wording | None = None
    """Default: the suite's."""
    reply: str | None = None
    """The right answer to a literal text; that to an intent is known from the world."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.text is not None and self.intent is not None:
            raise ValueError("has a text and an intent; give one of the two")
        if self.text is None and self.reply is not None:
            raise ValueError("has a reply but no text; an intent's reply is known from the world")
        return self


class Say(Utterance):
    """The caller takes a turn, once the agent has ended."""

    after_s: Seconds = _GAP
    """After the end of the agent's voice."""


class Interrupt(Utterance):
    """The caller speaks while the agent does."""

    after_s: Seconds = _INTO
    """After the reply has begun to sound."""
    left_s: float = Field(1.0, ge=0, le=30)
    """The reply would have gone on for so long at least; a reply in which there is no such place is not interrupted."""


class Backchannel(Section):
    """The caller says "mm-hmm" while the agent speaks, and wants no turn."""

    text: str | None = Field(None, min_length=1, max_length=60)
    """Default: one of the world's."""
    after_s: Seconds = _INTO
    left_s: float = Field(1.0, ge=0, le=30)


class Noise(Section):
    """A sound of the caller's that is no speech."""

    kind: Literal["burst"] | NoiseKind = "burst"
    """``burst``: a knock, a rustle, a cough."""
    level_db: float = Field(-30.0, ge=-70, le=-6)
    """dBFS while it lasts; speech has -24."""
    lasts_s: float = Field(0.5, gt=0, le=30)
    """A burst has its own length."""
    during: Literal["speech", "silence"] = "speech"
    """While the agent speaks, or while nobody does."""
    after_s: Seconds = _INTO
    left_s: float = Field(1.0, ge=0, le=30)


class Silence(Section):
    """The caller says nothing, whatever the agent does."""

    seconds: float = Field(gt=0, le=600)


class Wait(Section):
    """The caller listens until the agent has spoken and ended, or for so long at most."""

    most_s: float = Field(8.0, gt=0, le=600)


class Dtmf(Section):
    """The caller presses keys, once the agent has ended. Only a real call carries them."""

    keys: Annotated[str, AfterValidator(check_digits)]
    after_s: Seconds = _GAP


class Turns(Section):
    """Several turns, one after the other, each of whatever the caller may want there."""

    count: int | None = Field(None, ge=1, le=1_000)
    until_s: float | None = Field(None, gt=0, le=3_600)
    """As many as begin before this second of the call."""
    wording: Wording | None = None
    after_s: Seconds = _GAP
    ending: bool = False
    """Whether a turn may be one that ends the call."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.count is None) == (self.until_s is None):
            raise ValueError("needs either count or until_s")
        return self


class Step(Section):
    """One thing that the caller does: exactly one of these, and what is expected of the agent thereby."""

    say: Annotated[Say | None, BeforeValidator(_shorthand("text"))] = None
    interrupt: Annotated[Interrupt | None, BeforeValidator(_shorthand("text"))] = None
    backchannel: Annotated[Backchannel | None, BeforeValidator(_shorthand("text"))] = None
    noise: Annotated[Noise | None, BeforeValidator(_shorthand("kind"))] = None
    silence: Annotated[Silence | None, BeforeValidator(_shorthand("seconds"))] = None
    wait: Annotated[Wait | None, BeforeValidator(_shorthand("most_s"))] = None
    dtmf: Annotated[Dtmf | None, BeforeValidator(_shorthand("keys"))] = None
    turns: Annotated[Turns | None, BeforeValidator(_shorthand("count"))] = None
    expect: Expectation = NOTHING

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(getattr(self, verb) is not None for verb in _VERBS) != 1:
            raise ValueError(f"must be exactly one of {', '.join(_VERBS)}, e.g. say: {{intent: any}}")
        return self


class Echo(Section):
    """The agent's own voice, returned by the caller's telephone."""

    level_db: float = Field(-20.0, ge=-60, le=0)
    delay_s: float = Field(0.15, ge=0.08, le=1)
    """After the caller's ear has it; a frame at least."""


class SteadyNoise(Section):
    """Noise over the whole call."""

    kind: NoiseKind = "pink"
    snr_db: float = Field(25.0, ge=-10, le=60)
    """Below the caller's speech."""


class LineSettings(Section):
    """What lies between the caller's mouth and the agent."""

    codec: Literal["PCMU", "PCMA", "none"] = "PCMU"
    """G.711, in both directions; ``none`` is for the engine alone."""
    echo: Echo | None = None
    noise: SteadyNoise | None = None


class AgentSettings(Section):
    """What an agent's file would say; for the engine alone, on a real call the agent has its own."""

    greeting: str = ""
    """Spoken word for word; empty: the model greets by itself."""
    sampling: SamplingSettings = SamplingSettings(seed=None)


class Requirement(Section):
    """A bound on one score."""

    score: ScoreName
    control: Control | None = None
    """Of that control's dialogues; default: of the real ones."""
    least: float | None = None
    most: float | None = None

    @model_validator(mode="after")
    def _some_bound(self) -> Self:
        if self.least is None and self.most is None:
            raise ValueError("needs least or most")
        return self


class Suite(Section):
    """So many callers who do the same thing, each with a voice and words of their own."""

    name: Name
    about: str = ""
    world: str = "front_desk"
    """A world's file, or the name of one that comes with Denwa."""
    voices: Split = "held"
    """``held`` and ``far`` are never trained on."""
    wording: Wording = "seen"
    dialogues: int = Field(20, ge=1, le=100_000)
    seed: int = Field(1, ge=0, lt=2**31)
    steps: list[Step] = Field(min_length=1)
    line: LineSettings = LineSettings()
    agent: AgentSettings = AgentSettings()
    controls: list[Control] = Field([])
    reply_within_s: float = Field(4.0, gt=0, le=60)
    """An answer that begins later is none."""
    listen_s: float = Field(2.0, ge=0, le=60)
    """After the last thing that is said."""
    max_s: float = Field(90.0, gt=0, le=3_600)
    """Of one call, whatever happens."""
    late_s: float = Field(240.0, gt=0)
    """Turns that begin after this are scored once more by themselves."""
    require: list[Requirement] = Field([])

    @property
    def probe(self) -> Probe:
        """What is tested, and so what a control takes away."""
        for verb, probe in _PROBES.items():
            if any(getattr(step, verb) is not None for step in self.steps):
                return probe
        return "says" if self.line.echo is None else "echo"
