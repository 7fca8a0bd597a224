"""Who may talk to a worker that has a token."""

from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from starlette.requests import HTTPConnection
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from agent.served_model import ServedModel
from config.schema import ModelSettings
from model_runtime.engine.engine import Engine
from model_runtime.errors import LocalModelError, ProtocolError
from model_runtime.worker import app, serve
from model_runtime.worker.app import Worker
from model_runtime.worker.auth import is_authorized
from model_runtime.worker.client import open_session, probe
from model_runtime.worker.protocol import Open
from tests.model_runtime.engine.doubles import ScriptedModel
from tests.model_runtime.worker.kyutai_client import kyutai_client
from tests.model_runtime.worker.process import Inbox, worker_process

TOKEN = "correct-horse-battery-staple"
SETTINGS = ModelSettings.model_validate({"kind": "echo", "slots": 2, "token": TOKEN})


def connection(query: str = "", **headers: str) -> HTTPConnection:
    """A request with these headers."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "query_string": query.encode(), "headers": raw})


@pytest.mark.parametrize(
    ("shown", "right"),
    [
        (connection(authorization=f"Bearer {TOKEN}"), True),
        (connection(authorization=f"bearer  {TOKEN}"), True),
        (connection(kyutai_api_key=TOKEN), True),
        (connection(f"auth_id={TOKEN}"), True),
        (connection(f"worker_auth_id={TOKEN}"), True),
        (connection("auth_id=wrong", authorization=f"Bearer {TOKEN}"), True),
        (connection(), False),
        (connection(authorization=TOKEN), False),
        (connection(authorization=f"Basic {TOKEN}"), False),
        (connection(authorization="Bearer "), False),
        (connection(kyutai_api_key=TOKEN[:-1]), False),
        (connection("auth_id=\N{SNOWMAN}"), False),
        (connection(f"token={TOKEN}"), False),
    ],
)
def test_the_token_may_stand_in_four_places(shown: HTTPConnection, right: bool) -> None:
    """As a bearer token, or where Kyutai's servers look for it; and it must be all of it."""
    assert is_authorized(shown, SecretStr(TOKEN)) is right
    assert is_authorized(shown, None)


async def test_sessions_are_for_those_who_show_the_token() -> None:
    """Both protocols answer 401 without it and serve with it; /healthz asks for none, but says whether it is right."""
    async with worker_process(SETTINGS) as worker:
        for path in ("/v1/session", "/api/chat", "/api/chat?auth_id=wrong"):
            with pytest.raises(InvalidStatus) as refused:
                await connect(worker.url + path)
            assert refused.value.response.status_code == 401
            assert refused.value.response.headers["WWW-Authenticate"].startswith("Bearer")
        for token in (None, SecretStr("wrong")):
            with pytest.raises(ProtocolError, match="does not take our token"):
                async with open_session(worker.url, Open(seed=1), on_frame=Inbox(), token=token):
                    pass
        inbox = Inbox()
        async with (
            kyutai_client(worker.url, f"auth_id={TOKEN}"),
            open_session(worker.url, Open(seed=1), on_frame=inbox, token=SecretStr(TOKEN)) as session,
        ):
            session.send_audio(np.zeros(1920, np.int16), 0.0)
            await inbox.wait(1)
        assert (await probe(worker.url)).slots == 2
        assert (await probe(worker.url, token=SecretStr(TOKEN))).slots == 2
        with pytest.raises(ProtocolError, match="does not take our token"):
            await probe(worker.url, token=SecretStr("wrong"))


async def test_the_gateway_shows_its_models_token() -> None:
    """A lease opens its session with the token of the model."""
    async with worker_process(SETTINGS) as worker:
        model = ServedModel("m", [worker.url], SecretStr(TOKEN))
        model._workers[0].slots, model._workers[0].healthy = 2, True
        async with model.lease().open(Open(seed=1), Inbox()) as session:
            assert session.ready is not None


async def test_the_token_is_never_shown(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither settings nor the worker's output show it, whoever connects."""
    assert TOKEN not in f"{SETTINGS!r} {SETTINGS} {SETTINGS.model_dump_json()}"
    async with worker_process(SETTINGS) as worker, kyutai_client(worker.url, f"auth_id={TOKEN}"):
        pass
    out, err = capfd.readouterr()
    assert TOKEN not in out + err


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False)])
def test_a_worker_knows_whether_others_reach_it(host: str, loopback: bool) -> None:
    """Only a loopback address needs no warning that there is no token."""
    try:
        listener = serve._listener((host, 0))
    except LocalModelError as error:
        pytest.skip(f"this machine has no such address: {error}")
    with listener:
        assert serve._is_loopback(listener) is loopback


class DeniedWebSocket:
    """A handshake whose refusal is noted."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.query_params: dict[str, str] = {}
        self.response: Any = None

    async def send_denial_response(self, response: object) -> None:
        """The refusal."""
        self.response = response


async def test_without_opus_the_route_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without sphn answers /api/chat with 501 and how to install it."""
    monkeypatch.setattr(app, "opus_missing", lambda: "install it")
    websocket: Any = DeniedWebSocket()
    await Worker("m", Engine(ScriptedModel(1))).chat(websocket)
    assert (websocket.response.status_code, websocket.response.body) == (501, b"install it\n")
