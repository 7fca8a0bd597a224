"""The shape of denwa.yaml and agents/*.yaml. Units stand in the names; unknown keys are refused."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Codec = Literal["PCMU", "PCMA", "G722"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PortRange(_Section):
    """UDP ports for RTP and RTCP: two per call."""

    first: int = Field(10_000, ge=1024, le=65_534)
    last: int = Field(19_999, ge=1025, le=65_535)


class SipRateLimit(_Section):
    """A token bucket per source address for INVITE and other requests out of dialog."""

    per_s: float = Field(20.0, gt=0)
    burst: int = Field(40, ge=1)


class SipSettings(_Section):
    """The SIP edge and its line workers."""

    listen: list[str] = ["udp:0.0.0.0:5060", "tcp:0.0.0.0:5060"]
    external_address: str | None = None
    """The address peers are told in Via, Contact, Record-Route and SDP; default: the local address facing the peer."""
    allow: list[IPv4Network | IPv6Network] = [
        IPv4Network("127.0.0.0/8"),
        IPv4Network("10.0.0.0/8"),
        IPv4Network("172.16.0.0/12"),
        IPv4Network("192.168.0.0/16"),
    ]
    max_calls: int = Field(12, ge=1, le=10_000)
    max_calls_per_source: int | None = Field(None, ge=1)
    rate_limit: SipRateLimit = SipRateLimit()
    retry_after_s: int = Field(5, ge=1)
    codecs: list[Codec] = Field(["PCMU", "PCMA", "G722"], min_length=1)
    rtp_ports: PortRange = PortRange()
    rtp_address: str = "0.0.0.0"
    ring_timeout_s: float = Field(180.0, gt=0)
    """Timer C (RFC 3261 section 16.6): an INVITE without a final answer ends after this."""
    drain_s: float = Field(30.0, ge=0)
    """After SIGTERM, how long running calls may go on before they get a BYE."""
    worker_user: str | None = "nobody"
    """The user a line worker becomes when Denwa runs as root."""


class ModelSettings(_Section):
    """One model, served by one or more model workers."""

    kind: Literal["echo", "moshi"]
    checkpoint: str | None = None
    """A checkpoint folder, or ``random:tiny`` for the tiny architecture with seeded random weights."""
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    slots: int = Field(4, ge=1, le=1024)
    threads: int = Field(1, ge=1)
    workers: list[str] = []
    """``ws://host:port`` of running workers; empty: the gateway starts one itself."""


class SamplingSettings(_Section):
    """How tokens are drawn (arXiv 2410.00037, appendix; the reference's defaults)."""

    audio_temperature: float = Field(0.8, ge=0)
    audio_top_k: int = Field(250, ge=1)
    text_temperature: float = Field(0.7, ge=0)
    text_top_k: int = Field(25, ge=1)
    seed: int | None = None
    """The same seed and the same caller's audio give the same conversation; default: a new one per call."""


class AgentConfig(_Section):
    """Who answers: agents/NAME.yaml."""

    model: str
    answer_after_s: float = Field(0.0, ge=0, le=120)
    """How long the caller hears ringing before the answer."""
    max_duration_s: float | None = Field(None, gt=0)
    sampling: SamplingSettings = SamplingSettings()


class Route(_Section):
    """The first route whose every given condition holds names the agent. ``*`` and ``?`` are wildcards."""

    agent: str
    called: str | None = None
    caller: str | None = None
    trunk: str | None = None


class Trunk(_Section):
    """A known peer, recognised by its source address."""

    addresses: list[IPv4Network | IPv6Network] = Field(min_length=1)
    max_calls: int | None = Field(None, ge=1)


class StorageSettings(_Section):
    """Where records of calls are kept."""

    transcripts: Path = Path("var/transcripts")


class ObservabilitySettings(_Section):
    """Logs and the HTTP listener with /healthz and /metrics."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    http_listen: str = "127.0.0.1:8080"


class Settings(_Section):
    """denwa.yaml, with the agents beside it read in."""

    sip: SipSettings = SipSettings()
    models: Annotated[dict[str, ModelSettings], Field(min_length=1)]
    agents: dict[str, AgentConfig]
    """Read from agents/*.yaml beside the file; the file's stem is the name. May also stand in denwa.yaml itself."""
    routes: list[Route] = Field(min_length=1)
    trunks: dict[str, Trunk] = {}
    storage: StorageSettings = StorageSettings()
    observability: ObservabilitySettings = ObservabilitySettings()
