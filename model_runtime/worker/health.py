"""How a worker is: the answer of its /healthz, and how the gateway asks for it."""

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr

from model_runtime.errors import ModelLost, ProtocolError
from model_runtime.worker.auth import TOKEN_REFUSED, bearer

Status = Literal["ok", "draining", "slow"]
_MAX_ANSWER: Final = 16_384  # bytes


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """What a worker says of itself: ``slow`` and ``draining`` workers take no new conversations."""

    status: Status
    model: str
    slots: int
    free: int
    p99_step_ms: float | None
    """None where too few steps were made of late to tell."""

    def to_json(self) -> bytes:
        """As /healthz answers."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "WorkerHealth":
        """Read an answer; raises ``ProtocolError``."""
        try:
            answer = json.loads(data)
            status, model, p99 = answer["status"], str(answer["model"]), answer["p99_step_ms"]
            health = cls(status, model, int(answer["slots"]), int(answer["free"]), None if p99 is None else float(p99))
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise ProtocolError(f"/healthz: not a worker's answer: {type(error).__name__}: {error}") from None
        if status not in get_args(Status):
            raise ProtocolError(f"/healthz: status: expected one of {', '.join(get_args(Status))}")
        return health


async def probe(url: str, *, timeout_s: float = 2.0, token: SecretStr | None = None) -> WorkerHealth:
    """Ask the worker at ``ws://host:port`` or ``wss://host:port`` how it is, and whether ``token`` is its token.

    Raises ``ModelLost`` where none answers in time, ``ProtocolError`` where something else does or the token is wrong.
    """
    parts = urlsplit(url)
    secure = parts.scheme in ("wss", "https")
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, ssl=secure or None)
            try:
                shown = f"Authorization: {bearer(token)}\r\n" if token else ""
                asked = f"GET /healthz HTTP/1.1\r\nHost: {parts.netloc}\r\n{shown}Connection: close\r\n\r\n"
                writer.write(asked.encode())
                answer = await _read(reader)
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise ModelLost(f"{url}: no answer within {timeout_s:g} s") from None
    except (OSError, EOFError) as error:
        raise ModelLost(f"{url}: {error or type(error).__name__}") from None
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        raise ProtocolError(f"{url}: not an HTTP answer")
    if head.startswith(b"HTTP/1.1 401"):
        raise ProtocolError(f"{url}: {TOKEN_REFUSED}")
    return WorkerHealth.from_json(body)


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Read to the end of the answer (the request said Connection: close)."""
    answer = b""
    while chunk := await reader.read(_MAX_ANSWER):
        answer += chunk
        if len(answer) > _MAX_ANSWER:
            raise ProtocolError("/healthz: the answer does not end")
    return answer
