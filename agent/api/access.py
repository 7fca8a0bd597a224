"""Who may use the API: whoever shows the token; without one, programs of this machine, but no web page in its browsers.

A page from elsewhere can make a browser send requests to 127.0.0.1. It cannot leave out ``Origin``, or give ``Host``
another name than its own (DNS rebinding), so both are looked at.
"""

import secrets
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from pydantic import SecretStr

_BEARER = "Bearer "


class Access:
    """A FastAPI dependency that lets a request through or raises 401 or 403 with what would be right."""

    def __init__(self, token: SecretStr | None) -> None:
        self._token = None if token is None else token.get_secret_value().encode()

    async def __call__(self, request: Request) -> None:
        """Check one request."""
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise HTTPException(403, f"a page of {origin} may not use this API")
        if self._token is None:
            if not _is_this_machine(host):
                raise HTTPException(403, "without api.token the API is for this machine: call it as 127.0.0.1")
            return
        shown = request.headers.get("authorization", "")
        if not shown.startswith(_BEARER) or not secrets.compare_digest(shown[len(_BEARER) :].encode(), self._token):
            raise HTTPException(401, "send Authorization: Bearer TOKEN, the value of api.token")


def _is_this_machine(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
