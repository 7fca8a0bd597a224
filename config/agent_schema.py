"""The shape of agents/NAME.yaml: who answers, how it speaks, what is kept of its calls.

Immutable values, made once by config/load.py; each part of Denwa is handed its own section.
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from config.actions_schema import Action
from config.addresses import check_transfer_target
from config.opening import check_periods, check_timezone
from config.section import Name, Section

Text = Annotated[str, Field(max_length=4_000)]
"""What a model may be given to say or to know."""

TransferTarget = Annotated[str, AfterValidator(check_transfer_target)]
Periods = Annotated[list[str], AfterValidator(check_periods)]


def _number(value: Any) -> Any:
    """A file's numbers are text until it is known what they are for, and ``Literal`` does not ask."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


SampleRate = Annotated[Literal[8000, 16000, 24000], BeforeValidator(_number)]


class SamplingSettings(Section):
    """How tokens are drawn (arXiv 2410.00037, appendix; the reference's defaults)."""

    audio_temperature: float = Field(0.8, ge=0, le=100)
    """Spread of the spoken tokens; 0 takes the likeliest every time."""
    audio_top_k: int = Field(250, ge=1)
    """How many of the likeliest spoken tokens are drawn from."""
    text_temperature: float = Field(0.7, ge=0, le=100)
    """Spread of the text tokens; 0 takes the likeliest every time."""
    text_top_k: int = Field(25, ge=1)
    """How many of the likeliest text tokens are drawn from."""
    pad_bias: float = Field(0.0, ge=-100, le=100)
    """Added to the likelihood (logit) of saying nothing: above 0 the agent is more reticent, below 0 more talkative."""
    repetition_penalty: float = Field(1.0, ge=1, le=10)
    """Above 1 the agent repeats its last 64 text tokens less; 1 is off."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """The same seed and the same caller's audio give the same conversation; default: a new one per call."""


class ConsentSettings(Section):
    """What every caller is told first. Until it is said to its end, the caller's audio is withheld from the model."""

    text: Text | None = None
    """The announcement, word for word, in the model's voice; with ``wav`` the words of that file."""
    wav: Path | None = None
    """The announcement as a file: WAV, mono, 16 bit, at most 30 s."""


class RecordingSettings(Section):
    """The sound of a call: one stereo file, left the agent, right the caller, on one clock."""

    enabled: bool = False
    """Whether calls are recorded."""
    format: Literal["flac", "wav"] = "flac"
    """FLAC is a third to a half of WAV's size, without loss; both can be played after a crash."""
    sample_rate: SampleRate = 24_000
    """Samples per second. 24000 is what models are trained on."""
    begin: Literal["answer", "consent"] = "answer"
    """``consent``: silence is written until the consent announcement has been said."""


class TranscriptSettings(Section):
    """The words of a call, written while it runs; WebVTT and plain text at its end."""

    enabled: bool = True
    """Whether transcripts are written."""
    caller: bool = True
    """Whether the caller's words are written too, where the model has a ``listener``."""


class RetentionSettings(Section):
    """How long what was kept of a call stays, in days since the call; default: for ever."""

    audio_days: float | None = Field(None, ge=0)
    """The recording."""
    text_days: float | None = Field(None, ge=0)
    """The transcript in all its forms."""
    record_days: float | None = Field(None, ge=0)
    """The call's record; what is left of sound and text goes with it."""


class OpeningHours(Section):
    """When the agent answers; without ``open`` it always does. Outside, callers reach ``closed_agent`` or a message."""

    timezone: Annotated[str, AfterValidator(check_timezone)] = "UTC"
    """Whose clock counts, e.g. ``Europe/Berlin``."""
    open: dict[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], Periods] | None = None
    """For each day the periods, e.g. ``mon: ["08:30-12:00", "13:00-17:30"]``; a day that is missing is closed."""
    holidays: list[date] = Field([])
    """Days that are closed whatever weekday they are, e.g. ``2026-12-25``."""
    closed_agent: str | None = None
    """The agent that answers instead."""
    closed_message: Text | None = None
    """What callers are told before the agent hangs up, where no ``closed_agent`` is named."""

    @model_validator(mode="after")
    def _closed_says_something(self) -> Self:
        if self.open is None and self.holidays:
            raise ValueError("has holidays but no open: write the days and periods, e.g. open: {mon: [08:00-17:00]}")
        if self.open is not None and not (self.closed_agent or self.closed_message):
            raise ValueError("needs closed_agent or closed_message, what callers get outside of open")
        return self


class FallbackSettings(Section):
    """What a caller gets when no model can speak with him."""

    full: Literal["busy", "message", "transfer"] = "busy"
    """When every slot is taken: 503 with Retry-After, the message and then the end, or a transfer (302)."""
    lost: Literal["end", "message", "transfer"] = "end"
    """When the model is lost in mid-call and does not come back: the end at once, after the message, or a transfer."""
    lost_after_s: float = Field(30.0, ge=1, le=300)
    """How long a lost model is sought again; the caller hears silence meanwhile."""
    message_wav: Path | None = None
    """What is played: WAV, mono, 16 bit. A file, for there is no model to say it."""
    transfer_to: TransferTarget | None = None
    """A SIP URI; the line's peer is asked to call it instead."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        chosen = (self.full, self.lost)
        if "message" in chosen and self.message_wav is None:
            raise ValueError("message needs message_wav, the file that is played")
        if "transfer" in chosen and self.transfer_to is None:
            raise ValueError("transfer needs transfer_to, e.g. sip:200@pbx.example.com")
        return self


class AgentConfig(Section):
    """Who answers: agents/NAME.yaml, on top of agents/_base.yaml where there is one."""

    model: str
    """The name of a model in ``models``."""
    language: str = Field("en", pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")
    """The language of the conversation (BCP 47), told in transcripts, records and webhooks; the model is not asked."""
    answer_after_s: float = Field(0.0, ge=0, le=120)
    """How long the caller hears ringing before the answer."""
    instructions: Text | None = None
    """Who the agent is and what it knows, for models that were trained to be told (PersonaPlex); others ignore it."""
    voice: Name | None = None
    """The voice it speaks with: the name of a file in the model's ``voices``, without its ending."""
    first_speaker: Literal["agent", "caller"] = "agent"
    """``caller``: the agent keeps silent until the caller has said something, or for ``first_speaker_wait_s``."""
    first_speaker_wait_s: float = Field(5.0, ge=0, le=60)
    """How long an agent that lets the caller speak first waits for that."""
    greeting: Text | None = None
    """What it says first, word for word; with ``greeting_wav`` the words of that file."""
    greeting_wav: Path | None = None
    """The greeting as a file (WAV, mono, 16 bit, at most 30 s): the model takes it for its own speech."""
    sampling: SamplingSettings = SamplingSettings()
    """How the model draws its tokens."""
    consent: ConsentSettings = ConsentSettings()
    """What every caller is told before anything else."""
    max_duration_s: float | None = Field(None, gt=0)
    """The agent hangs up after this; default: never."""
    caller_silence_s: float | None = Field(None, ge=1)
    """After so long without a word from either side the agent says the next of ``still_there``; default: never."""
    still_there: list[Text] = Field(["Are you still there?"], max_length=10)
    """What it says then, one each time; a caller who stays silent after the last one is hung up on."""
    silence_goodbye: Text | None = None
    """What it says before that."""
    agent_silence_s: float | None = Field(None, ge=1)
    """An agent that is not heard for so long though the caller has spoken raises an alert; default: never."""
    recording: RecordingSettings = RecordingSettings()
    """What is kept of the sound."""
    transcript: TranscriptSettings = TranscriptSettings()
    """What is kept of the words."""
    retention: RetentionSettings = RetentionSettings()
    """How long it is kept."""
    hours: OpeningHours = OpeningHours()
    """When it answers."""
    fallback: FallbackSettings = FallbackSettings()
    """What callers get when no model can speak with them."""
    variables: dict[Name, str] = Field({})
    """Values that ``{NAME}`` stands for in actions' texts; actions may change them in a call."""
    actions: list[Action] = Field([])
    """What happens when the agent says something, a key is pressed, or the API asks for it."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.greeting_wav is not None and self.consent.text is not None and self.consent.wav is None:
            raise ValueError("has a greeting_wav after a consent.text: give both as files, or both as texts")
        names = [action.name for action in self.actions]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two actions are named {twice!r}; give each a name of its own")
        return self
