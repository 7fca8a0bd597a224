"""Who may use the API: whoever shows the token; without one, programs of this machine, but no web page in its browsers.

A page from elsewhere can make a browser send requests to 127.0.0.1. It cannot leave out ``Origin``, or give ``Host``
another name than its own (DNS rebinding), so both are looked at. All of that before a request's body is read.
"""

import secrets
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY_BYTES: Final = 65_536
_GUARDED: Final = "/v1/"
"""What lies elsewhere tells nothing of calls: health, figures, the API's description."""
_BEARER: Final = "Bearer "


class Access:
    """ASGI middleware that answers 401, 403, 411 or 413, with what would be right, to who may not go on."""

    def __init__(self, app: ASGIApp, token: SecretStr | None) -> None:
        self._app = app
        self._token = None if token is None else token.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request."""
        if scope["type"] == "http" and scope["path"].startswith(_GUARDED):
            refusal = self._refusal(Headers(scope=scope))
            if refusal is not None:
                status, detail = refusal
                await JSONResponse({"detail": detail}, status_code=status)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, f"a page of {origin} may not use this API"
        if self._token is None:
            if not _is_this_machine(host):
                return 403, "without api.token the API is for this machine: call it as 127.0.0.1"
        elif not self._knows(headers.get("authorization", "")):
            return 401, "send Authorization: Bearer TOKEN, the value of api.token"
        if "transfer-encoding" in headers:
            return 411, "send the body in one piece, with Content-Length"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return 413, f"a body has at most {MAX_BODY_BYTES} bytes"
        return None

    def _knows(self, shown: str) -> bool:
        if self._token is None or not shown.startswith(_BEARER):
            return False
        return secrets.compare_digest(shown[len(_BEARER) :].encode(), self._token)


def _is_this_machine(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
