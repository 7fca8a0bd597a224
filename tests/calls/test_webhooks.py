"""Web servers that are told what happens in calls, however badly they behave; and whoever reads along."""

import asyncio
import contextlib
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.agent.events.web_server import Request, WebServer, web_server
from tests.peers import audio, proc, rtp
from tests.peers.audio import write_wav
from tests.peers.baresip import baresip
from tests.peers.caller import call
from tests.peers.denwa import ROOT, Denwa, denwa
from tests.peers.rtp_capture import capture, streams, to_port
from tests.peers.sipp import sipp

pytestmark = [pytest.mark.peer("sipp"), pytest.mark.peer("tcpdump")]

SPEECH = audio.noise(-20, 5.0, 8_000, seed=9)
SECRET = "whsec_dGhlIHNlY3JldCBvZiB0aGUgdGVzdHM="
BAD = {
    "failing": ["500"],
    "hanging": ["hang"],
    "resetting": ["reset"],
    "talking garbage": ["garbage"],
    "never done": ["endless"],
    "slow": ["slow 0.5"],
    "everything in turn": [
        "503 retry-after: 1",
        "hang",
        "reset",
        "slow 0.5",
        "garbage",
        "endless",
        "401",
        "302 location: /",
    ],
}
"""Receivers, and what each does with one request after another."""
Event = dict[str, Any]


def _verify() -> Callable[[str, dict[str, str], bytes], bool]:
    """The snippet of docs/events.md."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "events.md").read_text(), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    verify: Callable[[str, dict[str, str], bytes], bool] = names["verify"]
    return verify


def _events(servers: dict[str, WebServer], **keys: Any) -> dict[str, Any]:
    """The section ``events`` with these servers as receivers."""
    receivers = {
        name.replace(" ", "-"): {"url": server.url, "secret": SECRET} | keys for name, server in servers.items()
    }
    return {"webhooks": receivers}


def _in_turn(what: list[str]) -> Callable[[Request], str]:
    turns = itertools.cycle(what)
    return lambda request: next(turns)


def _numbers(server: WebServer) -> dict[str, list[int]]:
    """By call the numbers of the events that a server accepted, in the order in which it did."""
    numbers: dict[str, list[int]] = {}
    for request in server.accepted:
        numbers.setdefault(request.json["call"], []).append(request.json["number"])
    return numbers


async def _delivered(gateway: Denwa, within_s: float = 30.0) -> None:
    """Wait until no event waits for any receiver."""
    async with asyncio.timeout(within_s):
        while any((await gateway.health())["events_waiting"].values()):
            await asyncio.sleep(0.1)


def _check(server: WebServer, calls: int) -> None:
    """All events of so many calls were accepted once each, in order, and signed."""
    verify = _verify()
    assert all(verify(SECRET, request.headers, request.body) for request in server.requests)
    assert not any(verify("whsec_b3RoZXI=", request.headers, request.body) for request in server.accepted)
    assert not any(verify(SECRET, request.headers, request.body + b" ") for request in server.accepted)
    assert all(request.headers["webhook-id"] == request.json["id"] for request in server.accepted)
    numbers = _numbers(server)
    assert len(numbers) == calls
    assert numbers == {call_id: list(range(len(found))) for call_id, found in numbers.items()}
    last = {request.json["call"]: request.json["type"] for request in server.accepted}
    assert set(last.values()) == {"call.ended"}


async def test_receivers_that_misbehave_harm_no_call(tmp_path: Path) -> None:
    """While they fail, hang, dawdle and talk nonsense a caller hears the same as before; afterwards they get it all."""
    wire, loop = tmp_path / "rtp.pcap", asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(web_server()) for name in ("well", *BAD)}
        events = _events(servers, timeout_s=1)
        gateway = await stack.enter_async_context(denwa(tmp_path, sip={"max_calls": 20}, events=events))
        async with call(gateway.server, "echo", SPEECH) as caller, capture(wire, caller.rtp_port, caller.rtp_port):
            await _load(gateway)
            bad_at = loop.time()
            for name, what in BAD.items():
                servers[name].behaviour = _in_turn(what)
            await _load(gateway)
            waiting = (await gateway.health())["events_waiting"]
            assert waiting["failing"] > 20
            assert waiting["hanging"] > 20
            assert waiting["well"] < 20
            good_at = loop.time()
            for name in BAD:
                servers[name].behaviour = lambda request: "200"
            assert not caller.ended.is_set()
        await _delivered(gateway)
        for server in servers.values():
            _check(server, 2 * CALLS + 1)
        assert await gateway.metric("denwa_webhook_waiting") == 0
        failing = {line["receiver"] for line in gateway.log() if line["event"] == "webhook.failing"}
        assert failing == {"failing", "hanging", "resetting", "talking-garbage", "everything-in-turn"}
        assert {line["receiver"] for line in await gateway.wait_log("webhook.recovered", 5)} >= failing
        _check_unharmed(to_port(streams(wire), caller.rtp_port), good_at - bad_at)


CALLS = 12


async def _load(gateway: Denwa) -> None:
    """Calls enough to tell something of, for about 4 s."""
    await sipp("talk", gateway.sip_port, calls=CALLS, rate=5, audio=SPEECH, talk_s=1.0, trace=False)


def _check_unharmed(heard: list[rtp.Packet], bad_s: float) -> None:
    """A caller's packets came on time on the wire: the last ``bad_s`` of them as those before."""
    bad = np.array([packet.at >= heard[-1].at - bad_s for packet in heard])[1:]
    gaps = rtp.gaps(heard)
    assert bad.sum() >= 0.98 * bad_s / rtp.PACKET_S
    assert np.percentile(gaps[bad], 99) <= max(0.04, 1.2 * np.percentile(gaps[~bad], 99))


ANNA: dict[str, Any] = {
    "model": "tiny",
    "greeting": "Good morning, who is speaking?",
    "variables": {"colour": "grey"},
    "actions": [
        {"name": "paint", "when": {"dtmf": "7"}, "do": [{"set": {"colour": "blue"}}, {"say": "It is {colour} now."}]},
    ],
}


@pytest.mark.peer("baresip")
async def test_a_whole_call_is_told(tmp_path: Path) -> None:
    """Webhooks and server-sent events tell all of it, in order; a reader that comes back misses nothing."""
    models = {"tiny": {"kind": "moshi", "checkpoint": "random:tiny", "slots": 2}}
    turn = np.concatenate([np.zeros(12_000, np.int16), audio.noise(-15, 1.0, 8_000, seed=4)])
    wav = write_wav(tmp_path / "turns.wav", np.tile(turn, 16), 8_000)
    async with (
        web_server() as server,
        denwa(tmp_path, models=models, agents={"anna": ANNA}, events=_events({"crm": server})) as gateway,
        _reading(gateway, "/v1/events") as read,
        baresip(wav) as phone,
    ):
        await phone.dial(f"sip:anna@127.0.0.1:{gateway.sip_port}")
        await _until(lambda: _of_kind(server, "transcript.segment"))
        await phone.command("sndcode", "7")
        await _until(lambda: _of_kind(server, "action"))
        await _until(lambda: _of_kind(server, "barge_in"))
        await asyncio.sleep(1)
        ((call_id, status),) = [(each["id"], each) for each in await gateway.get("/v1/calls")]
        assert (status["caller"], status["called"], status["agent"]) == ("caller", "anna", "anna")
        target = f"sip:echo@127.0.0.1:{gateway.sip_port}"
        code, outcome = await gateway.post(f"/v1/calls/{call_id}/transfer", {"to": target})
        assert (code, outcome["accepted"]) == (200, True)
        await _until(lambda: _of_kind(server, "call.ended"))
        told = _of_call(server, call_id)
        await _until(lambda: [each for each in read if each["call"] == call_id] == told)
        async with _reading(gateway, f"/v1/events?call={call_id}&kind=dtmf&kind=call.ended", told[0]["id"]) as again:
            await _until(lambda: again)
            await asyncio.sleep(0.3)
        assert again == [each for each in told if each["type"] in ("dtmf", "call.ended")]
        await phone.hangup()
        records = {each["id"]: each for each in await gateway.wait_records(2)}
        await _delivered(gateway)
    _check(server, 2)
    _check_told(told, records[call_id], target)


def _check_told(told: list[Event], record: dict[str, Any], target: str) -> None:
    kinds = [each["type"] for each in told]
    assert kinds[:2] == ["call.started", "call.answered"]
    assert kinds[-1] == "call.ended"
    assert [each["number"] for each in told] == list(range(len(told)))
    assert kinds.index("dtmf") < kinds.index("action")
    by_kind = {each["type"]: each["data"] for each in reversed(told)}  # the first of each
    assert by_kind["call.started"] == {
        **{"direction": "inbound", "caller": "caller", "called": "anna"},
        **{"trunk": None, "agent": "anna", "generation": 1},
    }
    assert by_kind["call.answered"] == {"codec": "PCMU"}
    assert (by_kind["dtmf"]["key"], by_kind["dtmf"]["at_s"] > 0) == ("7", True)
    action = by_kind["action"]
    assert (action["name"], action["trigger"], action["result"], action["steps"]) == (
        "paint",
        "dtmf",
        "done",
        ["set", "say"],
    )
    assert set(by_kind["barge_in"]) == {"at_s", "yielded_after_s"}
    assert by_kind["transfer"] == {"target": target, "accepted": True, "status": 200, "reason": "OK"}
    segments = [each["data"] for each in told if each["type"] == "transcript.segment"]
    said = "".join(each["text"] for each in segments if each["scripted"])
    assert "Good morning, who is speaking?" in said
    assert "It is blue now." in said
    assert all(each["speaker"] == "agent" and each["start"] <= each["end"] for each in segments)
    ended = by_kind["call.ended"]
    assert {name: value for name, value in record.items() if name != "id"} == ended
    assert (ended["result"], ended["reason"], ended["variables"]) == (
        "completed",
        "caller transferred",
        {"colour": "blue"},
    )
    assert [each["name"] for each in ended["actions"]] == ["paint"]
    assert all(each["call"] == record["id"] for each in told)


def _of_kind(server: WebServer, kind: str) -> list[Event]:
    return [request.json for request in server.accepted if request.json["type"] == kind]


def _of_call(server: WebServer, call_id: str) -> list[Event]:
    return [request.json for request in server.accepted if request.json["call"] == call_id]


async def _until(condition: Callable[[], object], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def _reading(gateway: Denwa, path: str, last_id: str | None = None) -> AsyncIterator[list[Event]]:
    """Read server-sent events along for as long as the context lasts, into the list that is given."""
    events: list[Event] = []
    connected = asyncio.Event()

    async def read() -> None:
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        url = f"http://127.0.0.1:{gateway.http_port}{path}"
        async with (
            httpx.AsyncClient(timeout=None, trust_env=False, verify=False) as client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                connected.set()
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                elif "data" in fields:
                    event = json.loads(fields["data"])
                    assert (fields["id"], fields["event"]) == (event["id"], event["type"])
                    events.append(event)
                    fields = {}

    reading = asyncio.create_task(read(), name="reader")
    try:
        async with asyncio.timeout(5):
            await connected.wait()
        yield events
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def test_events_outlive_their_gateway(tmp_path: Path) -> None:
    """What a receiver did not take before a SIGTERM, or before a ``kill -9``, it gets after the restart."""
    async with web_server(lambda request: "500") as server:
        events = _events({"crm": server})
        async with denwa(tmp_path, events=events) as gateway:
            await sipp("short_call", gateway.sip_port, calls=3)
            await gateway.wait_log("call.ended", 3)
        assert not server.accepted

        async with denwa(tmp_path, events=events) as gateway:
            (line,) = await gateway.wait_log("webhook.resumed")
            assert line["waiting"] >= 9
            await sipp("short_call", gateway.sip_port, calls=2)
            await gateway.wait_log("call.ended", 2)
            async with call(gateway.server, "echo", SPEECH) as caller:
                await gateway.wait_log("call.started", 3)
                await asyncio.sleep(1)
                running = gateway.processes()
                gateway.process.kill()
                await gateway.process.wait()
                caller.ended.set()  # nobody is there to answer a BYE
            await _until(lambda: not any(proc.alive(pid) for pid in running), within_s=10)
        assert not server.accepted

        server.behaviour = lambda request: "200"
        async with denwa(tmp_path, events=events) as gateway:
            await _delivered(gateway)
            records = await gateway.wait_records(6)
    assert [each["reason"] for each in records].count("gateway lost") == 1
    numbers = _numbers(server)
    assert numbers.keys() == {each["id"] for each in records}
    assert all(found == list(range(len(found))) for found in numbers.values())
    ended = {event["call"] for event in _of_kind(server, "call.ended")}
    assert ended >= {each["id"] for each in records if each["reason"] == "caller hung up"}
    (lost,) = [each["id"] for each in records if each["reason"] == "gateway lost"]
    assert len(numbers[lost]) >= 2
    verify = _verify()
    assert all(verify(SECRET, request.headers, request.body) for request in server.requests)
