"""The HTTP API of a running gateway: who may use it, what it does to calls, and what it says when it does not."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from tests.peers import audio
from tests.peers.audio import write_wav
from tests.peers.baresip import baresip
from tests.peers.caller import CallRefused, call
from tests.peers.denwa import Denwa, denwa
from tests.peers.sipp import SippResult, sipp

pytestmark = [pytest.mark.peer("sipp"), pytest.mark.asyncio(loop_scope="module")]

SPEECH = audio.noise(-20, 5.0, 8_000, seed=2)
TOKEN = "a-token-of-32-characters-or-more-0"
TARGET = "sip:desk@192.0.2.9:5070"
AGENTS: dict[str, Any] = {
    "anna": {
        "model": "tiny",
        "greeting": "Good morning.",
        "variables": {"name": "Anna"},
        "actions": [
            {"name": "once", "do": [{"set": {"name": "Berta"}}, {"say": "I am {name}."}]},
            {"name": "ask", "repeat": True, "do": [{"webhook": {"url": "http://127.0.0.1:9/", "timeout_s": 1}}]},
        ],
    },
    "ben": {"model": "tiny", "greeting": "Good evening, my friend.", "language": "de"},
    "full": {"model": "single"},
}
MODELS = {
    "tiny": {"kind": "moshi", "checkpoint": "random:tiny", "slots": 2},
    "single": {"kind": "echo", "slots": 1},
}
OPEN = {("GET", "/livez"), ("GET", "/readyz"), ("GET", "/healthz"), ("GET", "/metrics")}
GUARDED = {
    *(("GET", path) for path in ("/v1/calls", "/v1/calls/{call}", "/v1/calls/{call}/frames", "/v1/events")),
    *(("GET", path) for path in ("/v1/records", "/v1/records/{call}")),
    *(
        ("POST", f"/v1/calls/{{call}}/{verb}")
        for verb in ("say", "hangup", "transfer", "dtmf", "agent", "actions/{name}")
    ),
    *(("DELETE", "/v1/callers/{number}"), ("POST", "/v1/reload"), ("POST", "/v1/purge")),
}


class Api:
    """Requests to a gateway's API with what a client shows."""

    def __init__(self, gateway: Denwa, **headers: str) -> None:
        self._base = f"http://127.0.0.1:{gateway.http_port}"
        self._headers = headers

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """The status, and the answer's JSON."""
        async with httpx.AsyncClient(base_url=self._base, timeout=30, trust_env=False, verify=False) as client:
            answer = await client.request(method, path, json=body, headers=self._headers | headers)
        return answer.status_code, answer.json()

    async def detail(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """The status of a refusal, and why it is one."""
        status, answer = await self.ask(method, path, body, **headers)
        assert set(answer) == {"detail"}, answer
        return status, json.dumps(answer["detail"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Denwa]:
    """A gateway whose API is open to this machine."""
    async with denwa(tmp_path_factory.mktemp("api"), models=MODELS, agents=AGENTS) as running:
        yield running


@contextlib.asynccontextmanager
async def _called(gateway: Denwa, agent: str) -> AsyncIterator[str]:
    """A call to an agent, up; its id."""
    async with call(gateway.server, agent, SPEECH) as caller:
        yield await _id(gateway)
        assert not caller.ended.is_set()
    await gateway.wait_health(calls=0, within_s=10)


async def _id(gateway: Denwa) -> str:
    """The id of the one call that runs, once it is answered."""
    async with asyncio.timeout(10):
        while True:
            running = await gateway.get("/v1/calls")
            if len(running) == 1 and running[0]["answered_at"]:
                return str(running[0]["id"])
            await asyncio.sleep(0.05)


async def _record(gateway: Denwa, call_id: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while (record := await gateway.get(f"/v1/records/{call_id}")) is None:
            await asyncio.sleep(0.1)
    assert isinstance(record, dict)
    return record


def _words(record: dict[str, Any]) -> str:
    """The transcript of a call, as text in one line."""
    return Path(record["text"]).read_text().replace("\n", " ")


async def test_a_token_is_asked_for(tmp_path: Path) -> None:
    """With ``api.token`` every route but those of health says 401 to who does not show it, and hears no other page."""
    async with denwa(tmp_path, api={"token": TOKEN}) as gateway:
        right = {"Authorization": f"Bearer {TOKEN}"}
        nobody, somebody, known = Api(gateway), Api(gateway, Authorization=f"Bearer {TOKEN}x"), Api(gateway, **right)
        for method, path in sorted(GUARDED):
            path = path.format(call="abcd", name="x", number="x")
            for stranger in (
                nobody,
                somebody,
                Api(gateway, Authorization=TOKEN),
                Api(gateway, Authorization="Bearer"),
            ):
                status, why = await stranger.detail(method, path, {} if method == "POST" else None)
                assert (status, "Authorization: Bearer TOKEN" in why) == (401, True), (method, path, why)
        for _, path in sorted(OPEN - {("GET", "/metrics")}):
            assert (await nobody.ask("GET", path))[0] == 200
        assert await known.ask("GET", "/v1/calls") == (200, [])
        assert await known.ask("GET", "/v1/calls", Host="denwa.example.com") == (200, [])
        assert (await known.detail("GET", "/v1/calls", Origin="http://evil.example"))[0] == 403
        assert TOKEN not in gateway.log_path.read_text()


async def test_pages_of_other_places_are_refused(gateway: Denwa) -> None:
    """Without a token the API is for programs of this machine, not for what a browser has loaded from elsewhere."""
    api, here = Api(gateway), f"127.0.0.1:{gateway.http_port}"
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"http://localhost:{gateway.http_port}"):
        status, why = await api.detail("POST", "/v1/reload", Origin=origin)
        assert (status, origin in why) == (403, True)
    for host in ("evil.example", f"evil.example:{gateway.http_port}", "127.0.0.1.evil.example", "10.0.0.1", ""):
        assert (await api.detail("GET", "/v1/calls", Host=host))[0] == 403, host
    for host in (here, f"localhost:{gateway.http_port}", "[::1]"):
        assert await api.ask("GET", "/v1/calls", Host=host) == (200, []), host
    assert await api.ask("GET", "/v1/calls", Origin=f"http://{here}") == (200, [])


async def test_the_api_describes_itself(gateway: Denwa) -> None:
    """``/openapi.json`` has every route, each with a sentence, and what a body must be like."""
    _, page = await Api(gateway).ask("GET", "/openapi.json")
    routes = {(verb.upper(), path): about for path, verbs in page["paths"].items() for verb, about in verbs.items()}
    assert routes.keys() == OPEN | GUARDED
    assert all(len(about["summary"]) > 5 for about in routes.values())
    with_body = {path.rsplit("/", 1)[1] for (_, path), about in routes.items() if "requestBody" in about}
    assert with_body == {"say", "hangup", "transfer", "dtmf", "agent", "purge"}


async def test_health(gateway: Denwa, tmp_path: Path) -> None:
    """Alive, ready and healthy are three questions; who drains is alive only."""
    api = Api(gateway)
    assert await api.ask("GET", "/livez") == (200, {"status": "ok"})
    status, ready = await api.ask("GET", "/readyz")
    assert (status, ready["ready"], ready["status"], ready["store"]) == (200, True, "ok", "ok")
    assert (await api.ask("GET", "/healthz")) == (200, ready)
    async with denwa(tmp_path, sip={"drain_s": 3}) as other:
        async with call(other.server, "echo", SPEECH):
            running = other.processes()
            other.process.terminate()
            await other.wait_log("gateway.draining")
            answers = [await Api(other).ask("GET", path) for path in ("/livez", "/readyz", "/healthz")]
            with pytest.raises(CallRefused):
                async with call(other.server, "echo", SPEECH):
                    pass
        await other.wait_stopped(running)
    assert [status for status, _ in answers] == [200, 503, 503]
    assert [answer["status"] for _, answer in answers] == ["ok", "draining", "draining"]


async def test_an_agent_says_what_it_is_told(gateway: Denwa) -> None:
    """``say`` is in the transcript word for word, and ``frames`` tells where each frame spent its time."""
    api = Api(gateway)
    async with _called(gateway, "anna") as call_id:
        path = f"/v1/calls/{call_id}"
        assert await api.ask("POST", f"{path}/say", {"text": "The house is green."}) == (202, {"done": True})
        await asyncio.sleep(3)
        status, frames = await api.ask("GET", f"{path}/frames")
        assert (status, frames["call"], len(frames["frames"]) > 10) == (200, call_id, True)
        status, running = await api.ask("GET", path)
        assert (status, running["agent"], running["caller"], running["now_s"] > 2) == (200, "anna", "caller", True)
    assert "The house is green." in _words(await _record(gateway, call_id))


async def test_a_call_is_ended(gateway: Denwa) -> None:
    """``hangup`` ends a call in which nobody speaks at once, for the reason that is given."""
    async with call(gateway.server, "echo", np.zeros(8_000, np.int16)) as caller:
        call_id = await _id(gateway)
        answer = await Api(gateway).ask("POST", f"/v1/calls/{call_id}/hangup", {"reason": "enough"})
        assert answer == (202, {"done": True})
        async with asyncio.timeout(5):
            await caller.ended.wait()
    record = await _record(gateway, call_id)
    assert (record["result"], record["reason"], record["sip_status"]) == ("completed", "enough", 200)


async def test_another_agent_goes_on(gateway: Denwa) -> None:
    """``agent`` gives the call to another agent, who begins with its greeting; an unknown or full one is refused."""
    api = Api(gateway)
    async with _called(gateway, "anna") as call_id:
        path = f"/v1/calls/{call_id}/agent"
        status, why = await api.detail("POST", path, {"agent": "nobody"})
        assert (status, "no agent 'nobody'" in why) == (422, True)
        async with call(gateway.server, "full", SPEECH):
            assert (await api.detail("POST", path, {"agent": "full"}))[0] == 422
        await asyncio.sleep(1)
        assert await api.ask("POST", path, {"agent": "ben"}) == (200, {"done": True})
        (running,) = await gateway.get("/v1/calls")
        assert (running["agent"], running["language"]) == ("ben", "de")
        await asyncio.sleep(3)
    record = await _record(gateway, call_id)
    assert (record["agent"], record["language"], record["result"]) == ("ben", "de", "completed")
    assert "Good evening, my friend." in _words(record)


async def test_actions_are_run(gateway: Denwa) -> None:
    """``actions/NAME`` tells the outcome: 404 for one that is not there, 409 for one that may not run again."""
    api = Api(gateway)
    async with _called(gateway, "anna") as call_id:
        path = f"/v1/calls/{call_id}/actions"
        status, outcome = await api.ask("POST", f"{path}/once")
        assert (status, outcome["result"], outcome["trigger"], outcome["steps"]) == (200, "done", "api", ["set", "say"])
        status, why = await api.detail("POST", f"{path}/once")
        assert (status, "has run in this call" in why) == (409, True)
        status, why = await api.detail("POST", f"{path}/nothing")
        assert (status, "no action 'nothing'" in why) == (404, True)
        for _ in range(2):
            status, outcome = await api.ask("POST", f"{path}/ask")
            assert (status, outcome["result"], "no connection" in outcome["detail"]) == (200, "failed", True)
        assert await api.ask("POST", f"/v1/calls/{call_id}/dtmf", {"digits": "12#"}) == (202, {"done": True})
    record = await _record(gateway, call_id)
    assert [(each["name"], each["result"]) for each in record["actions"]] == [
        ("once", "done"),
        *[("ask", "failed")] * 2,
    ]
    assert record["variables"] == {"name": "Berta"}


@pytest.mark.parametrize(
    ("scenario", "accepted", "status", "reason"),
    [
        ("refer_accepted", True, 200, "caller transferred"),
        ("refer_refused", False, 603, "caller hung up"),
        ("refer_busy", False, 486, "caller hung up"),
        ("refer_silent", False, 408, "caller hung up"),
    ],
)
async def test_callers_are_transferred(gateway: Denwa, scenario: str, accepted: bool, status: int, reason: str) -> None:
    """``transfer`` tells how it went; but for one that was accepted the call goes on."""
    async with asyncio.TaskGroup() as tasks:
        calling = tasks.create_task(sipp(scenario, gateway.sip_port, within_s=15), name=scenario)
        call_id = await _id(gateway)
        code, outcome = await Api(gateway).ask("POST", f"/v1/calls/{call_id}/transfer", {"to": TARGET, "within_s": 1})
    result: SippResult = calling.result()
    assert (code, outcome["accepted"], outcome["status"]) == (200, accepted, status)
    assert f"Refer-To: <{TARGET}>" in result.messages
    record = await _record(gateway, call_id)
    assert (record["result"], record["reason"]) == ("completed", reason)


@pytest.mark.peer("baresip")
async def test_keys_are_pressed_at_the_callers_end(gateway: Denwa, tmp_path: Path) -> None:
    """``dtmf`` reaches somebody else's phone as the keys that were asked for."""
    wav = write_wav(tmp_path / "noise.wav", audio.noise(-20, 20, 8_000, seed=1), 8_000)
    async with baresip(wav) as phone:
        await phone.dial(f"sip:echo@127.0.0.1:{gateway.sip_port}")
        call_id = await _id(gateway)
        assert (await gateway.post(f"/v1/calls/{call_id}/dtmf", {"digits": "42#"}))[0] == 202
        pressed: list[str] = []
        while len(pressed) < 3:
            pressed.append(str((await phone.wait_event("CALL_DTMF_START"))["param"]))
        await phone.hangup()
        await phone.wait_event("CALL_CLOSED")
    assert pressed == ["4", "2", "#"]
    await gateway.wait_health(calls=0, within_s=10)


async def test_wrong_requests_say_what_would_be_right(gateway: Denwa) -> None:
    """404 for calls that do not run, 422 for what cannot be meant, each with a sentence, and the call goes on."""
    api = Api(gateway)
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/frames", None),
        ("POST", "/say", {"text": "Hello."}),
        ("POST", "/hangup", {}),
        ("POST", "/transfer", {"to": TARGET}),
        ("POST", "/dtmf", {"digits": "1"}),
        ("POST", "/agent", {"agent": "ben"}),
        ("POST", "/actions/once", None),
    ):
        status, why = await api.detail(method, f"/v1/calls/abcd1234{path}", body)
        assert (status, "no call abcd1234 is running" in why) == (404, True)
    assert (await api.detail("GET", "/v1/records/abcd1234"))[0] == 404
    async with _called(gateway, "echo") as call_id:
        for path, body, name in (
            ("say", {}, "text"),
            ("say", {"text": ""}, "text"),
            ("say", {"text": "x" * 4_001}, "text"),
            ("say", {"text": "Hello.", "voice": "loud"}, "voice"),
            ("hangup", {"reason": "x" * 201}, "reason"),
            ("transfer", {"to": "desk"}, "sip:200@pbx.example.com"),
            ("transfer", {"to": TARGET, "within_s": 0}, "within_s"),
            ("transfer", {"to": f"{TARGET}?Replaces=1"}, "SIP URI"),
            ("transfer", {"to": f"{TARGET};method=INVITE"}, "no method"),
            ("dtmf", {"digits": "12E"}, "can be dialled"),
            ("dtmf", {"digits": "1" * 32}, "1 to 31"),
            ("dtmf", {"digits": ""}, "digits"),
            ("agent", {"agent": "x" * 65}, "agent"),
        ):
            status, why = await api.detail("POST", f"/v1/calls/{call_id}/{path}", body)
            assert (status, name in why) == (422, True), (path, body, why)
        for path in ("/v1/calls/..%2F..", "/v1/records/not-an-id", "/v1/records?limit=0", "/v1/records?result=fine"):
            assert (await api.detail("GET", path))[0] in (404, 422)
        assert (await api.detail("PUT", "/v1/calls", {}))[0] == 405


async def test_everything_of_a_caller_is_deleted(tmp_path: Path) -> None:
    """``DELETE /v1/callers/NUMBER`` removes records and files of the number alone, and names calls that still run."""
    async with denwa(tmp_path, agents={"kept": {"model": "echo", "recording": {"enabled": True}}}) as gateway:
        api = Api(gateway)
        await sipp("caller_bye", gateway.sip_port, called="kept", calls=2)
        records = await gateway.wait_records(2)
        files = [Path(path) for each in records for name in ("recording", "transcript") if (path := each[name])]
        assert len(files) == 4
        assert all(path.exists() for path in files)
        assert (await api.ask("DELETE", "/v1/callers/somebody"))[1]["records"] == 0
        assert len(await gateway.wait_records(2)) == 2
        async with call(gateway.server, "kept", SPEECH):
            call_id = await _id(gateway)
            status, purged = await api.ask("DELETE", "/v1/callers/caller")
            assert (status, purged["records"], purged["recordings"]) == (200, 2, 2)
            assert (purged["running"], purged["complete"]) == ([call_id], False)
        assert not any(path.exists() for path in files)
        await _record(gateway, call_id)
        _, purged = await api.ask("DELETE", "/v1/callers/caller")
        assert (purged["records"], purged["complete"]) == (1, True)
        assert await gateway.get("/v1/records") == []
        left = [name for folder in ("recordings", "transcripts") for name in os.listdir(tmp_path / folder)]
        assert left == []
