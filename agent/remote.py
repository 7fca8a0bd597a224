"""Asking the gateway that runs with a configuration, from one of the commands. Blocking."""

import httpx

from config.schema import Settings

_WITHIN_S = 30.0


class NoGateway(Exception):
    """No gateway answers; the message says where it was asked."""


def ask(settings: Settings, method: str, path: str, body: object = None) -> httpx.Response:
    """The gateway's answer to one request of its API, whatever its status. Raises ``NoGateway``."""
    url = f"http://{settings.observability.http_listen}"
    token = settings.api.token
    headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=_WITHIN_S, trust_env=False) as client:
            return client.request(method, path, json=body)
    except httpx.HTTPError as error:
        raise NoGateway(f"no gateway answers at {url} ({error}); is denwa serve running?") from None


def detail(response: httpx.Response) -> str:
    """What the gateway says is wrong."""
    if "json" in response.headers.get("content-type", ""):
        return str(response.json().get("detail"))
    return f"the gateway answered {response.status_code}"
