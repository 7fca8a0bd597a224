"""Who may talk to a worker: whoever shows its token, if it has one. No input or output.

The token is a bearer token (RFC 6750). Kyutai's clients have other places for it, which their own servers read: the
header ``kyutai-api-key``, or ``auth_id`` (moshi-server) and ``worker_auth_id`` (moshi-backend) in the query.
"""

import hmac
from typing import Final

from pydantic import SecretStr
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response

TOKEN_REFUSED: Final = "the worker does not take our token (HTTP 401); models.NAME.token must be the same on both sides"
_KYUTAI_HEADER: Final = "kyutai-api-key"
_KYUTAI_QUERY: Final = ("auth_id", "worker_auth_id")


def bearer(token: SecretStr) -> str:
    """The value of ``Authorization`` that shows the token (RFC 6750 section 2.1)."""
    return f"Bearer {token.get_secret_value()}"


def is_authorized(connection: HTTPConnection, token: SecretStr | None) -> bool:
    """Whether a request or a WebSocket handshake shows the token; always, where there is none."""
    if token is None:
        return True
    expected = token.get_secret_value().encode()
    # every place is compared, and each in constant time: how long it takes tells nothing
    return any([hmac.compare_digest(shown.encode(), expected) for shown in _shown(connection)])


def shows_credentials(connection: HTTPConnection) -> bool:
    """Whether a request or a WebSocket handshake shows a token at all, right or wrong."""
    return bool(_shown(connection))


def unauthorized() -> Response:
    """The refusal: 401 with the challenge that RFC 6750 section 3 asks for."""
    return PlainTextResponse("a token is needed, and this is none\n", 401, {"WWW-Authenticate": 'Bearer realm="denwa"'})


def _shown(connection: HTTPConnection) -> list[str]:
    """Every token that the client shows, wherever it does."""
    shown = []
    scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        shown.append(credentials.strip())
    if _KYUTAI_HEADER in connection.headers:
        shown.append(connection.headers[_KYUTAI_HEADER])
    shown += [connection.query_params[name] for name in _KYUTAI_QUERY if name in connection.query_params]
    return shown
