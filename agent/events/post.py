"""One POST to a web server that nobody trusts: bounded in time and size, redirects not followed.

Runs on the gateway's event loop. The environment's proxies are not used.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpx

_DRAIN_BYTES: Final = 16_384
_DRAIN_S: Final = 0.5
"""How much of an answer that nobody wants is read, so that the connection can be used again."""


class NoAnswer(Exception):
    """No usable answer came; the message says why, in words for an operator, without the address or the content."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a web server answered; ``body`` is empty unless it was asked for. ``retry_after_s``: RFC 9110, 10.2.3."""

    status: int
    retry_after_s: float | None = None
    body: bytes = b""


@contextlib.asynccontextmanager
async def http_client() -> AsyncIterator[httpx.AsyncClient]:
    """A client for ``post`` that keeps no cookies; one serves the whole gateway. Certificates are read in a thread."""
    context = await asyncio.to_thread(httpx.create_ssl_context, trust_env=False)
    await asyncio.to_thread(context.load_default_certs)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0)
    async with httpx.AsyncClient(
        verify=context,
        trust_env=False,
        timeout=None,
        limits=limits,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    ) as client:
        yield client


async def post(
    http: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str], *, within_s: float, wanted: int = 0
) -> Answer:
    """Send ``body``; return the answer with a body of at most ``wanted`` bytes. Raises ``NoAnswer``.

    With ``wanted`` 0 the answer counts as soon as its status is there, whatever happens to the rest of it.
    """
    answer: Answer | None = None
    try:
        async with asyncio.timeout(within_s) as limit:
            async with http.stream(
                "POST", url, content=body, headers={"accept-encoding": "identity", **headers}
            ) as got:
                answer = Answer(got.status_code, _retry_after(got.headers.get("retry-after"), datetime.now(UTC)))
                if wanted:
                    return replace(answer, body=await _read(got, wanted))
                limit.reschedule(asyncio.get_running_loop().time() + _DRAIN_S)
                await _drain(got)
                return answer
    except TimeoutError:
        if answer is None or wanted:
            raise NoAnswer(f"no answer within {within_s:g} s") from None
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError) as error:
        if answer is None or wanted:
            raise NoAnswer(_words(error)) from None
    return answer


async def _read(got: httpx.Response, wanted: int) -> bytes:
    if got.headers.get("content-encoding", "identity").lower() != "identity":
        raise NoAnswer("the answer is compressed, though that was not asked for")
    body = b""
    async for piece in got.aiter_raw():
        body += piece
        if len(body) > wanted:
            raise NoAnswer(f"the answer is longer than {wanted} bytes")
    return body


async def _drain(got: httpx.Response) -> None:
    size = 0
    async for piece in got.aiter_raw():
        size += len(piece)
        if size > _DRAIN_BYTES:
            return


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds, from a number or an HTTP date; None where it is neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(int(value)))
    except (ValueError, OverflowError):
        pass
    try:
        at = parsedate_to_datetime(value)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now.timestamp())
    except (ValueError, TypeError, OverflowError):
        return None


def _words(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError):
        return "no connection"
    if isinstance(error, httpx.RemoteProtocolError):
        return "what came back is not HTTP, or broke off"
    if isinstance(error, (httpx.NetworkError, OSError)):
        return "the connection broke"
    return f"it cannot be asked ({type(error).__name__})"
