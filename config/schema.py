"""The shape of denwa.yaml and agents/*.yaml. Units stand in the names; unknown keys are refused.

Immutable values, made once by config/load.py; each part of Denwa is handed its own section.
"""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from config.actions_schema import HttpUrl
from config.addresses import (
    check_database_url,
    check_http_listen,
    check_ip,
    check_listen,
    check_worker_url,
    is_loopback,
    parse_network,
)
from config.agent_schema import AgentConfig
from config.redaction import check_pattern
from config.secrets import check_token
from config.section import Name, Section

Codec = Literal["PCMU", "PCMA", "G722"]
IpAddress = Annotated[str, AfterValidator(check_ip)]
ListenAddress = Annotated[str, AfterValidator(check_listen)]
HttpAddress = Annotated[str, AfterValidator(check_http_listen)]
WorkerUrl = Annotated[str, AfterValidator(check_worker_url)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(parse_network)]
Token = Annotated[SecretStr, AfterValidator(check_token)]


EventKind = Literal[
    "call.started",
    "call.answered",
    "transcript.segment",
    "barge_in",
    "dtmf",
    "action",
    "transfer",
    "call.ended",
    "alert",
]
"""What can be told of a call, in words that receivers rely on."""

EVENTS: Final[tuple[EventKind, ...]] = get_args(EventKind)


class PortRange(Section):
    """UDP ports for RTP and RTCP: each call takes an even port and the next odd one."""

    first: int = Field(10_000, ge=1024, le=65_534)
    """The lowest port; even."""
    last: int = Field(19_999, ge=1025, le=65_535, validate_default=True)
    """The highest port. Denwa wants four ports for each of ``sip.max_calls`` and 32 more."""

    @field_validator("first")
    @classmethod
    def _first_is_even(cls, first: int) -> int:
        if first % 2:
            raise ValueError(f"must be even, RTP on the even port and RTCP on the next, e.g. {first + 1}; got {first}")
        return first

    @field_validator("last")
    @classmethod
    def _last_is_above_first(cls, last: int, info: ValidationInfo) -> int:
        if last <= info.data.get("first", 0):
            raise ValueError(f"must be above first, which is {info.data['first']}; got {last}")
        return last


class SipRateLimit(Section):
    """A token bucket per source address for INVITE and other requests out of dialog."""

    per_s: float = Field(20.0, gt=0)
    """Requests per second from one address in the long run."""
    burst: int = Field(40, ge=1)
    """Requests that one address may send at once."""


class SipSettings(Section):
    """The SIP edge and its line workers."""

    listen: list[ListenAddress] = Field(["udp:0.0.0.0:5060", "tcp:0.0.0.0:5060"], min_length=1)
    """Where SIP is heard: ``udp:ADDRESS:PORT`` or ``tcp:ADDRESS:PORT``."""
    external_address: IpAddress | None = None
    """The address peers are told in Via, Contact, Record-Route and SDP; default: the local address facing the peer."""
    allow: list[Network] = Field(
        [
            IPv4Network("127.0.0.0/8"),
            IPv4Network("10.0.0.0/8"),
            IPv4Network("172.16.0.0/12"),
            IPv4Network("192.168.0.0/16"),
        ]
    )
    """Networks that may call; the addresses of trunks may as well. Nobody else gets an answer."""
    max_calls: int = Field(12, ge=1, le=10_000)
    """Calls at a time in total; the next one gets 503 with Retry-After."""
    max_calls_per_source: int | None = Field(None, ge=1)
    """Calls at a time from one address; default: no limit but ``max_calls``."""
    rate_limit: SipRateLimit = SipRateLimit()
    """How fast one address may send requests."""
    retry_after_s: int = Field(5, ge=1)
    """What a refused caller is told to wait before the next try."""
    codecs: list[Codec] = Field(["PCMU", "PCMA", "G722"], min_length=1)
    """Accepted audio encodings, the most wanted first."""
    rtp_ports: PortRange = PortRange()
    """UDP ports for the calls' audio; open them in the firewall."""
    rtp_address: IpAddress = "0.0.0.0"
    """The local address on which audio is received; 0.0.0.0 for every one."""
    ring_timeout_s: float = Field(180.0, gt=0)
    """Timer C (RFC 3261 section 16.6): an INVITE without a final answer ends after this."""
    drain_s: float = Field(30.0, ge=0)
    """After SIGTERM, how long running calls may go on before they get a BYE."""
    worker_user: str | None = "nobody"
    """The user a line worker becomes when Denwa runs as root; empty: it stays root."""


class ModelSettings(Section):
    """One model, served by one or more model workers."""

    kind: Literal["echo", "moshi"]
    """``moshi``: the speech model; ``echo``: the line test, the caller hears himself."""
    checkpoint: str | None = Field(None, validate_default=True)
    """A folder, ``hf://owner/name``, ``embedded:front-desk`` (comes with Denwa) or ``random:tiny`` (babbles)."""
    device: str = Field("cpu", pattern=r"^(cpu|mps|cuda(:\d+)?)$")
    """The torch device: ``cpu``, ``cuda`` or ``cuda:1``."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The numeric type of the weights and of the computation."""
    int8_weights: bool = False
    """Keep the language model's matrices in int8: a q8 checkpoint's as they are, others quantised when loaded."""
    int8_cache: bool = False
    """Keep what each slot remembers (keys and values) in int8: half of bfloat16's memory, so twice the slots."""
    slots: int = Field(4, ge=1, le=1024)
    """Conversations that one worker holds at a time."""
    threads: int = Field(1, ge=1, le=256)
    """CPU threads of a worker's torch."""
    listener: str | None = None
    """A speech-to-text checkpoint of Kyutai's that writes down the caller: a folder, ``hf://…``, or ``random:stt``."""
    voices: Path | None = None
    """The folder of voice samples: ``NAME.wav`` (24 kHz, 16 bit) or PersonaPlex's ``NAME.pt``."""
    pin_prompt: int = Field(0, ge=0, le=1_000)
    """So many first steps (80 ms each) of an agent's prompt stay in the model's sight in calls of any length."""
    workers: list[WorkerUrl] = Field([])
    """``ws://host:port`` of running workers; empty: the gateway starts one itself."""
    token: Token | None = None
    """What a client must show to talk to the model's workers, written as ``${NAME}``; default: nothing."""

    @field_validator("checkpoint")
    @classmethod
    def _checkpoint_fits_kind(cls, checkpoint: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("kind")
        if kind == "moshi" and not checkpoint:
            raise ValueError("kind moshi needs one: a folder, hf://owner/name, or embedded:front-desk, Denwa's own")
        if kind == "echo" and checkpoint is not None:
            raise ValueError("kind echo takes none; leave the key out, or write kind: moshi")
        return checkpoint


class Route(Section):
    """The first route whose every given condition holds names the agent. ``*`` and ``?`` are wildcards."""

    agent: str
    """The name of an agent."""
    called: str | None = None
    """The number that was called: the user part of the request's SIP address."""
    caller: str | None = None
    """The number of the caller: the user part of From."""
    trunk: str | None = None
    """The name of the trunk on which the call comes in."""
    override: dict[str, Any] = Field({})
    """Keys of the agent that are different on this route; sections are merged, lists replaced."""


class Trunk(Section):
    """A known peer, recognised by its source address."""

    addresses: list[Network] = Field(min_length=1)
    """Addresses or networks from which the peer sends."""


class StorageSettings(Section):
    """Where what is kept of calls is kept. Relative paths start at the working directory."""

    transcripts: Path = Path("var/transcripts")
    """The folder of the transcripts: ``.jsonl`` while the call runs, ``.vtt`` and ``.txt`` at its end."""
    recordings: Path = Path("var/recordings")
    """The folder of the recordings, each with its words in a ``.json`` beside it."""
    spool: Path = Path("var/spool")
    """The folder where records and events wait until the database and the receivers have them."""
    database: Annotated[str, AfterValidator(check_database_url)] = "sqlite:///var/denwa.db"
    """Where calls' records are stored: ``sqlite:///PATH`` (four slashes where it begins at /) or ``postgresql://…``."""


class PrivacySettings(Section):
    """What must not be written down."""

    redact: list[Literal["card_number", "email", "iban", "phone", "ssn"]] = Field([])
    """Kinds of text that are blackened in transcripts, records, events and logs."""
    patterns: dict[Name, Annotated[str, AfterValidator(check_pattern)]] = Field({})
    """More of them: names, and regular expressions (Python's), case ignored."""


class WebhookReceiver(Section):
    """A web server that is told what happens (docs/events.md)."""

    url: HttpUrl
    """Where events are sent, one POST each."""
    secret: SecretStr
    """Signs every request, written as ``${NAME}``."""
    events: list[EventKind] = Field(list(EVENTS), min_length=1)
    """Which events it wants."""
    timeout_s: float = Field(5.0, gt=0, le=60)
    """How long an answer may take before the event is sent again."""
    keep_s: float = Field(86_400.0, ge=1)
    """How long an event is tried before it is given up, with a line in the log."""


class EventSettings(Section):
    """Who is told what happens."""

    webhooks: dict[Name, WebhookReceiver] = Field({})
    """Web servers, by name."""


class ApiSettings(Section):
    """Who may use the HTTP API."""

    token: Token | None = None
    """What a client must show, written as ``${NAME}``; without one the API is open to this machine alone."""


class ObservabilitySettings(Section):
    """Logs, figures, traces, and the HTTP listener of the API."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least urgent log line that is written."""
    http_listen: HttpAddress = "127.0.0.1:8080"
    """``HOST:PORT`` of the API, /livez, /readyz, /healthz and /metrics."""
    otlp_endpoint: HttpUrl | None = None
    """Where OpenTelemetry traces go, e.g. ``http://127.0.0.1:4318/v1/traces``; needs the extra ``otel``."""


class Settings(Section):
    """denwa.yaml, with the agents beside it read in."""

    sip: SipSettings = SipSettings()
    """Where calls come in, and who may call."""
    models: Annotated[dict[Name, ModelSettings], Field(min_length=1)]
    """The models, by name; an agent speaks through one of them."""
    agents: Annotated[dict[Name, AgentConfig], Field(min_length=1)]
    """Read from agents/*.yaml beside the file; the file's stem is the name. May also stand in denwa.yaml itself."""
    routes: list[Route] = Field(min_length=1)
    """Which agent answers: the first route whose every condition holds."""
    trunks: dict[Name, Trunk] = Field({})
    """Known peers, by name."""
    storage: StorageSettings = StorageSettings()
    """Where what is kept of calls lies."""
    privacy: PrivacySettings = PrivacySettings()
    """What is blackened in all that is written."""
    events: EventSettings = EventSettings()
    """Web servers that are told what happens."""
    api: ApiSettings = ApiSettings()
    """The HTTP API's access."""
    observability: ObservabilitySettings = ObservabilitySettings()
    """Logs, figures, traces, and the HTTP listener."""

    @model_validator(mode="after")
    def _open_api_stays_at_home(self) -> Self:
        if self.api.token is None and not is_loopback(self.observability.http_listen):
            raise ValueError(
                "observability.http_listen is heard by other machines, so the API needs a token: "
                "write api: {token: ${DENWA_API_TOKEN}}, or listen on 127.0.0.1"
            )
        return self
