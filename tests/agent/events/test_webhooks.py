"""agent/events/: events reach web servers that behave badly, in order, signed, over a restart too."""

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from agent.events.backlog import Backoff
from agent.events.events import Events
from agent.events.journal import Journal, Record
from config.redaction import Redactor
from config.schema import EventSettings, WebhookReceiver
from tests.agent.events.web_server import Request, web_server

SECRET = "a secret that nobody may see"
QUICK = Backoff(first_s=0.02, longest_s=0.1)
PAGE = Path(__file__).parents[3] / "docs" / "events.md"


def _settings(url: str, name: str = "crm", **keys: Any) -> EventSettings:
    receiver = WebhookReceiver(url=url, secret=SecretStr(SECRET), **({"timeout_s": 0.3} | keys))
    return EventSettings(webhooks={name: receiver})


def _events(folder: Path, url: str, **keys: Any) -> Events:
    return Events(folder, _settings(url, **keys), Redactor(), QUICK)


def _verify() -> Callable[[str, dict[str, str], bytes], bool]:
    """The snippet of docs/events.md."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    return names["verify"]  # type: ignore[no-any-return]


def _numbers(requests: list[Request], call: str) -> list[int]:
    """The numbers of a call's events in the order in which they were first accepted."""
    numbers = [body["number"] for body in (request.json for request in requests) if body["call"] == call]
    return list(dict.fromkeys(numbers))


async def _until_waiting(events: Events, count: int, name: str = "crm") -> None:
    async with asyncio.timeout(10):
        while events.webhooks.waiting[name] != count:
            await asyncio.sleep(0.01)


def _stored(folder: Path) -> bytes | None:
    """Everything in the journals of a folder; None where there is none."""
    files = list(folder.rglob("*.events"))
    return b"".join(file.read_bytes() for file in files) if files else None


async def test_what_the_page_says_verifies_every_request(tmp_path: Path) -> None:
    """The snippet of docs/events.md accepts what comes, and nothing that was changed."""
    verify = _verify()
    async with web_server() as server, _events(tmp_path, server.url) as events:
        events.emit("call.started", "a", {"caller": "Jürgen\u2028"})
        events.emit("call.ended", "a", {})
        await server.until(2)
    for request in server.requests:
        assert verify(SECRET, request.headers, request.body)
        assert not verify(SECRET + "x", request.headers, request.body)
        assert not verify(SECRET, request.headers, request.body + b" ")
        assert not verify(SECRET, request.headers | {"webhook-timestamp": "1700000000"}, request.body)
        assert request.headers["webhook-id"] == request.json["id"]
    assert [request.json["type"] for request in server.requests] == ["call.started", "call.ended"]


async def test_a_secret_may_be_written_as_the_specification_has_it(tmp_path: Path) -> None:
    """``whsec_`` and base64 give the same key to the sender and to the snippet."""
    secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    async with web_server() as server:
        receiver = WebhookReceiver(url=server.url, secret=SecretStr(secret))
        async with Events(tmp_path, EventSettings(webhooks={"crm": receiver}), Redactor(), QUICK) as events:
            events.emit("call.started", "a", {})
            await server.until(1)
    assert _verify()(secret, server.requests[0].headers, server.requests[0].body)


@pytest.mark.parametrize(
    "trouble", ["500", "503 retry-after: 0", "401", "301 location: /other", "hang", "reset", "garbage"]
)
async def test_events_come_in_order_after_a_receiver_recovers(tmp_path: Path, trouble: str) -> None:
    """Whatever went wrong before, every event of every call is accepted in the end, in the order of its call."""
    well = False
    async with (
        web_server(lambda request: "200" if well else trouble) as server,
        _events(tmp_path, server.url, timeout_s=0.1) as events,
    ):
        for number in range(5):
            for call in ("a", "b", "c"):
                events.emit("transcript.segment", call, {"text": f"said {number}"})
        async with asyncio.timeout(10):
            while len(server.requests) < 4:
                await asyncio.sleep(0.01)
        assert events.webhooks.waiting == {"crm": 15}
        well = True
        await server.until(15)
        for call in ("a", "b", "c"):
            assert _numbers(server.accepted, call) == [0, 1, 2, 3, 4]
        ids = {request.json["id"] for request in server.requests}
        assert len(ids) == 15, "an event keeps its id"
        assert all(request.path == "/hook" for request in server.requests), "no redirect was followed"
        await _until_waiting(events, 0)
        figures = events.webhooks.figures["crm"]
    assert (figures.delivered, figures.given_up) == (15, 0)
    assert figures.retried >= 2
    assert not (_stored(tmp_path) or b"").strip(), "nothing is left on disk"


async def test_every_second_answer_fails_and_order_holds(tmp_path: Path) -> None:
    """With failures in between no event overtakes the one before it."""
    count = 0

    def flaky(request: Request) -> str:
        nonlocal count
        count += 1
        return "502" if count % 2 else "200"

    async with web_server(flaky) as server, _events(tmp_path, server.url) as events:
        for number in range(10):
            for call in range(10):
                events.emit("dtmf", f"call {call}", {"key": str(number)})
        await server.until(100)
    for call in range(10):
        assert _numbers(server.accepted, f"call {call}") == list(range(10))
        assert len([r for r in server.accepted if r.json["call"] == f"call {call}"]) == 10


async def test_a_receiver_that_fails_is_asked_one_thing_at_a_time(tmp_path: Path) -> None:
    """A healthy receiver has eight requests at once, one that fails a single one, of another call each time."""
    async with web_server(lambda request: "slow 0.05") as server, _events(tmp_path, server.url) as events:
        for call in range(40):
            events.emit("call.started", f"{call}", {})
        await server.until(40)
    assert server.most_at_once == 8
    async with web_server(lambda request: "500") as server, _events(tmp_path, server.url) as events:
        for call in range(40):
            events.emit("call.started", f"{call}", {})
        async with asyncio.timeout(10):
            while len(server.requests) < 20:
                await asyncio.sleep(0.01)
        later = [request.json["call"] for request in server.requests[8:]]
        assert len(set(later)) == len(later), "each probe is another call's"
        assert server.most_at_once <= 8


async def test_an_event_that_is_never_taken_holds_up_no_other(tmp_path: Path) -> None:
    """A poisoned event delays its own call alone; the others' are delivered meanwhile."""
    async with (
        web_server(lambda request: "500" if request.json["call"] == "poison" else "200") as server,
        _events(tmp_path, server.url) as events,
    ):
        events.emit("call.started", "poison", {})
        for call in range(30):
            events.emit("call.started", f"{call}", {})
            events.emit("call.ended", f"{call}", {})
        await server.until(60)
        await _until_waiting(events, 1)


@pytest.mark.parametrize("status", ["400", "410", "422"])
async def test_what_a_receiver_refuses_is_given_up_at_once(tmp_path: Path, status: str) -> None:
    """A status that speaks of the event ends its tries; the next one follows."""
    async with (
        web_server(lambda request: status if request.json["number"] == 0 else "200") as server,
        _events(tmp_path, server.url) as events,
    ):
        with capture_logs() as logs:
            events.emit("call.started", "a", {})
            events.emit("call.ended", "a", {})
            await server.until(1)
        assert [request.json["number"] for request in server.requests] == [0, 1]
        assert events.webhooks.figures["crm"].given_up == 1
    assert [line["reason"] for line in logs if line["event"] == "webhook.given_up"] == [f"answered {status}"]


@pytest.mark.parametrize("what", ["endless", "200 content-encoding: gzip"])
async def test_the_rest_of_an_answer_does_not_matter(tmp_path: Path, what: str) -> None:
    """An answer counts by its status, be its body endless or nonsense."""
    async with web_server(lambda request: what) as server, _events(tmp_path, server.url) as events:
        for number in range(3):
            events.emit("dtmf", "a", {"key": str(number)})
        await server.until(3, within_s=5)
        async with asyncio.timeout(5):
            while events.webhooks.figures["crm"].delivered < 3:
                await asyncio.sleep(0.01)
    assert len(server.requests) == 3


async def test_a_head_without_end_is_no_answer(tmp_path: Path) -> None:
    """Header fields that never end are read to a bound, and the event is tried again."""
    async with web_server(lambda request: "endless-head") as server, _events(tmp_path, server.url) as events:
        events.emit("call.started", "a", {})
        async with asyncio.timeout(10):
            while events.webhooks.figures["crm"].retried < 2:
                await asyncio.sleep(0.01)
        assert events.webhooks.figures["crm"].delivered == 0


async def test_retry_after_is_obeyed(tmp_path: Path) -> None:
    """A receiver that asks for a second of peace gets it."""
    times: list[float] = []

    def busy(request: Request) -> str:
        times.append(time.monotonic())
        return "429 retry-after: 1" if len(times) == 1 else "200"

    async with web_server(busy) as server, _events(tmp_path, server.url) as events:
        events.emit("call.started", "a", {})
        await server.until(1)
    assert 0.95 <= times[1] - times[0] < 3


async def test_an_event_is_given_up_when_its_time_is_over(tmp_path: Path) -> None:
    """``keep_s`` after it happened an event is no longer tried."""
    async with web_server(lambda request: "500") as server, _events(tmp_path, server.url, keep_s=1) as events:
        events.emit("call.started", "a", {})
        await _until_waiting(events, 0)
        assert events.webhooks.figures["crm"].given_up == 1
        assert events.webhooks.figures["crm"].retried >= 2


async def test_a_receiver_gets_the_kinds_it_wants_with_gaps_in_the_numbers(tmp_path: Path) -> None:
    """Events that a receiver does not want are not sent to it, and numbers count them all the same."""
    async with (
        web_server() as server,
        _events(tmp_path, server.url, events=["call.started", "call.ended"]) as events,
    ):
        for kind in ("call.started", "barge_in", "call.ended"):
            events.emit(kind, "a", {})  # type: ignore[arg-type]
        events.forget("a")
        events.emit("call.started", "a", {})
        await server.until(3)
    assert [request.json["number"] for request in server.accepted] == [0, 2, 0]


async def test_emitting_never_waits_for_a_receiver_or_the_disk(tmp_path: Path) -> None:
    """A thousand events to a server that hangs cost the loop well below a millisecond each."""
    async with web_server(lambda request: "hang") as server, _events(tmp_path, server.url) as events:
        worst = 0.0
        for number in range(1000):
            began = time.thread_time()
            events.emit("transcript.segment", f"{number % 12}", {"text": "word " * 20})
            worst = max(worst, time.thread_time() - began)
            if number % 50 == 0:
                await asyncio.sleep(0)
        assert worst < 0.02
        await asyncio.sleep(0.3)
        assert events.webhooks.waiting["crm"] == 1000


async def test_nothing_makes_emit_raise(tmp_path: Path) -> None:
    """Data that is no JSON costs that event, and is counted; what can be told in another way is."""
    async with web_server() as server, _events(tmp_path, server.url) as events:
        cycle: dict[str, Any] = {}
        cycle["self"] = cycle
        with capture_logs() as logs:
            events.emit("alert", None, cycle)
        assert events.lost == 1
        assert logs[0]["event"] == "event.lost"
        events.emit("alert", None, {"kind": "x", "message": "\ud800", "value": float("nan"), "path": tmp_path})
        await server.until(1)
    assert server.accepted[0].json["data"] == {"kind": "x", "message": "?", "value": None, "path": str(tmp_path)}


async def test_texts_are_blackened_and_names_are_not(tmp_path: Path) -> None:
    """Redaction reaches texts however deep, but not the numbers of the parties, ids and times; keys become stars."""
    redactor = Redactor(["card_number", "phone"])
    number = "4111 1111 1111 1111"
    async with web_server() as server, Events(tmp_path, _settings(server.url), redactor, QUICK) as events:
        stream = events.stream.subscribe()
        events.emit("call.started", "a", {"caller": "4930123456789", "started_at": "2026-03-01T09:30:12"})
        events.emit("transcript.segment", "a", {"text": f"it is {number}", "words": [{"text": number}]})
        events.emit("dtmf", "a", {"key": "4", "at": 1.5})
        events.emit("call.ended", "a", {"text": "/var/2026-03-01-0930.txt", "variables": {"text": number}})
        await server.until(4)
        told = [await anext(stream) for _ in range(5)]
        stream.close()
    data = [request.json["data"] for request in server.accepted]
    assert data[0] == {"caller": "4930123456789", "started_at": "2026-03-01T09:30:12"}
    assert data[1] == {"text": "it is [card_number]", "words": [{"text": "[card_number]"}]}
    assert data[2] == {"key": "*", "redacted": True, "at": 1.5}
    assert data[3] == {"text": "/var/2026-03-01-0930.txt", "variables": {"text": "[card_number]"}}
    assert "1111" not in "".join(told)


async def test_a_restart_delivers_what_was_left(tmp_path: Path) -> None:
    """What a server would not take is taken up by the next process, in order and with the same ids."""
    async with web_server(lambda request: "500") as server, _events(tmp_path, server.url) as events:
        for number in range(3):
            events.emit("dtmf", "a", {"key": str(number)})
        async with asyncio.timeout(5):
            while not server.requests:
                await asyncio.sleep(0.01)
    first_id = server.requests[0].json["id"]
    async with web_server() as server, _events(tmp_path, server.url) as events:
        events.emit("call.started", "b", {})
        await server.until(4)
    assert _numbers(server.accepted, "a") == [0, 1, 2]
    assert server.accepted[0].json["id"] == first_id


_PROCESS = """
import asyncio, sys
from pathlib import Path
from pydantic import SecretStr
from agent.events.events import Events
from agent.events.journal import Journal, Record
from config.redaction import Redactor
from config.schema import EventSettings, WebhookReceiver

async def main():
    receiver = WebhookReceiver(url=sys.argv[2], secret=SecretStr("s"), timeout_s=60)
    async with Events(Path(sys.argv[1]), EventSettings(webhooks={"crm": receiver}), Redactor()) as events:
        for number in range(200):
            events.emit("transcript.segment", f"call {number % 7}", {"text": f"said {number}"})
        await asyncio.sleep(1)
        sys.stdout.write("ready\\n"); sys.stdout.flush()
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_killed_process_costs_no_event(tmp_path: Path) -> None:
    """After ``kill -9`` of a process whose events wait, its successor delivers every one, in order."""
    async with web_server(lambda request: "hang") as server:
        command = [sys.executable, "-c", _PROCESS, str(tmp_path), server.url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            assert await process.stdout.readline() == b"ready\n"
        finally:
            process.kill()
            await process.wait()
    begun = {request.json["id"] for request in server.requests}
    assert 1 <= len(begun) <= 8
    async with web_server() as server, _events(tmp_path, server.url) as events:
        await server.until(200)
        await _until_waiting(events, 0)
    for call in range(7):
        assert _numbers(server.accepted, f"call {call}") == list(range(len(range(call, 200, 7))))
    assert len(server.accepted) == 200
    assert begun <= {request.json["id"] for request in server.accepted}
    assert _stored(tmp_path) is None


async def test_a_reload_changes_receivers_and_loses_nothing(tmp_path: Path) -> None:
    """An address may change while events wait; a receiver taken out keeps its events until it comes back."""
    async with web_server(lambda request: "500") as bad, web_server() as good, _events(tmp_path, bad.url) as events:
        events.emit("call.started", "a", {})
        async with asyncio.timeout(5):
            while not bad.requests:
                await asyncio.sleep(0.01)
        await events.reconfigure(_settings(good.url), Redactor())
        await good.until(1)
        await events.reconfigure(_settings(bad.url), Redactor())
        events.emit("call.ended", "a", {})
        with capture_logs() as logs:
            await events.reconfigure(_settings(good.url, "other"), Redactor())
        assert [line["receiver"] for line in logs if line["event"] == "webhook.leftovers"] == ["crm"]
        events.emit("call.started", "b", {})
        await good.until(2)
        await _until_waiting(events, 0, "other")
        await events.reconfigure(_settings(good.url), Redactor())
        await good.until(3)
    assert [request.json["type"] for request in good.accepted] == ["call.started", "call.started", "call.ended"]


async def test_purge_leaves_nothing_of_a_call_on_disk(tmp_path: Path) -> None:
    """What waits of a purged call is blackened, for a receiver that was taken out as well."""
    async with web_server(lambda request: "500") as server, _events(tmp_path, server.url) as events:
        for call in ("a", "b"):
            events.emit("transcript.segment", call, {"text": f"first {call}"})
            events.emit("transcript.segment", call, {"text": f"the secret of {call}"})
        await asyncio.sleep(0.2)
        assert b"secret of a" in (_stored(tmp_path) or b"")
        await events.purge(["a"])
        await asyncio.sleep(0.2)
        assert b"secret of a" not in (_stored(tmp_path) or b"")
        await events.reconfigure(EventSettings(), Redactor())
        await events.purge(["b"])
        assert b"secret" not in (_stored(tmp_path) or b"")


async def test_delivered_events_are_not_left_on_disk(tmp_path: Path) -> None:
    """What was said is blackened in the journal as soon as it was delivered."""
    async with web_server() as server, _events(tmp_path, server.url) as events:
        events.emit("transcript.segment", "a", {"text": "the secret"})
        await server.until(1)
        async with asyncio.timeout(5):
            while b"secret" in (_stored(tmp_path) or b""):
                await asyncio.sleep(0.01)


async def test_a_disk_that_fails_costs_safety_but_not_delivery(tmp_path: Path) -> None:
    """Where the folder cannot be written events are sent from memory, and the log says so once."""
    (tmp_path / "spool").write_text("no folder")
    with capture_logs() as logs:
        async with web_server() as server, _events(tmp_path / "spool", server.url) as events:
            for number in range(20):
                events.emit("dtmf", "a", {"key": str(number % 10)})
                await asyncio.sleep(0.005)
            await server.until(20)
            assert _numbers(server.accepted, "a") == list(range(20))
    assert len([line for line in logs if line["event"] == "events.disk_failed"]) == 1


async def test_a_fault_of_ours_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the sending of one event costs neither the gateway nor any event."""
    read, faults = Journal.read, iter([True])

    def faulty(journal: Journal, position: int) -> tuple[Record, int] | None:
        if next(faults, False):
            raise RuntimeError("a bug")
        return read(journal, position)

    monkeypatch.setattr(Journal, "read", faulty)
    with capture_logs() as logs:
        async with web_server() as server, _events(tmp_path, server.url) as events:
            for number in range(10):
                events.emit("dtmf", f"call {number % 3}", {"key": str(number)})
            await server.until(10)
            assert [_numbers(server.accepted, f"call {call}") for call in range(3)] == [
                [0, 1, 2, 3],
                [0, 1, 2],
                [0, 1, 2],
            ]
    assert "webhook.fault" in [line["event"] for line in logs]


async def test_neither_secret_nor_speech_is_logged(tmp_path: Path) -> None:
    """No line of the log, of any level, holds the secret, the address or what was said."""
    with capture_logs() as logs:
        async with web_server(lambda request: "500") as server, _events(tmp_path, server.url) as events:
            events.emit("transcript.segment", "a", {"text": "very private"})
            await asyncio.sleep(0.3)
    written = json.dumps(logs, default=str)
    assert logs
    assert SECRET not in written
    assert "private" not in written
    assert server.url not in written
