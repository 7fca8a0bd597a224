"""What agents do besides talking, in real calls: set off by words, keys and the API; asked of a web server; in order.

All calls are made at once. The model says what it is given to say and nothing else (tests/peers/quiet_moshi.py).
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
import torch

from model_runtime.checkpoint import load_moshi
from tests.agent.events.web_server import Request, WebServer, web_server
from tests.peers import audio
from tests.peers.called import Line, Played, until
from tests.peers.caller import call
from tests.peers.denwa import Denwa, denwa
from tests.peers.quiet_moshi import SETTINGS, quiet_moshi

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOTS = 5
SILENCE = np.zeros(8_000, np.int16)
SPEECH = audio.noise(-12, 3.0, 8_000, seed=6)
DESK = "sip:200@127.0.0.1"


async def _told(gateway: Denwa, call_id: str, kind: str) -> list[dict[str, Any]]:
    """The events of a call so far, from the stream's memory."""
    found: list[dict[str, Any]] = []
    url = f"http://127.0.0.1:{gateway.http_port}/v1/events?call={call_id}&kind={kind}"
    with contextlib.suppress(TimeoutError, httpx.ReadTimeout):
        async with (
            asyncio.timeout(3),
            httpx.AsyncClient(trust_env=False, timeout=1.0) as client,
            client.stream("GET", url, headers={"Last-Event-ID": "evt_of_long_ago"}) as answer,
        ):
            async for line in answer.aiter_lines():
                if line.startswith("data: {") and '"type"' in line:
                    found.append(json.loads(line[6:])["data"])
    return found


async def _say(line: Line, text: str) -> None:
    """Let the agent say it, and wait until it is written down."""
    status, _ = await line.gateway.post(f"/v1/calls/{await line.call_id()}/say", {"text": text})
    assert status == 202
    await line.said(text)


async def _run(line: Line, action: str) -> dict[str, Any]:
    """Run an action through the API; its outcome."""
    status, outcome = await line.gateway.post(f"/v1/calls/{await line.call_id()}/actions/{action}")
    assert status == 200, outcome
    assert isinstance(outcome, dict)
    return outcome


async def _words(line: Line, server: WebServer) -> Played:
    async with call(line.gateway.server, line.called, SILENCE):
        await line.said("I say.")
        await _say(line, "I will put you through, the order is seven.")
        await _say(line, "Order seven, or an ordering? Let me see.")
        await asyncio.sleep(1)  # a pause, by which the last word is whole
        told = await _told(line.gateway, await line.call_id(), "action")
    return await line.over(notes=told)


async def test_each_occurrence_of_words_counts_once(calls: "Calls") -> None:
    """In a greeting and in forced texts, over several tokens and repeated: as many runs as the agent asks for."""
    played = await calls("words")
    runs = [name for name, _ in played.actions]
    assert {name: runs.count(name) for name in set(runs)} == {"through": 1, "see": 2, "order": 2}
    assert [result for _, result in played.actions] == ["done"] * 5
    assert played.record["variables"] == {"last": "Order seven", "brace": "{"}


async def test_each_run_is_told_once(calls: "Calls") -> None:
    """Record and events tell the same of every run, and of no other."""
    played = await calls("words")
    assert played.notes == played.record["actions"]
    assert {each["trigger"] for each in played.notes} == {"agent_says", "agent_says_regex"}


async def test_one_agents_words_are_split_over_tokens(calls: "Calls") -> None:
    """The small model's text comes in pieces: else the tests above would show little."""
    _, tokenizer = await asyncio.to_thread(load_moshi, "random:tiny", "cpu", torch.float32, 1)
    pieces = [tokenizer.piece(token) for word in ("through,", "ordering") for token in tokenizer.encode(word)]
    assert len(pieces) >= 4, pieces


async def _keys(line: Line, server: WebServer) -> Played:
    async with call(line.gateway.server, line.called, SILENCE) as caller:
        call_id = await line.call_id()

        async def ran(count: int) -> None:
            async with asyncio.timeout(8):
                while len((await line.gateway.get(f"/v1/calls/{call_id}"))["actions"]) < count:
                    await asyncio.sleep(0.1)

        caller.press("12")
        await ran(1)
        caller.press("1")
        await ran(2)
        caller.press("4711#")
        await ran(3)
        caller.press("8")
        await asyncio.sleep(0.6)
    return await line.over()


async def test_keys_are_sequences(calls: "Calls") -> None:
    """The longest match wins, a shorter one counts when no key follows, and keys of no action do nothing."""
    played = await calls("keys")
    assert played.actions == [("both", "done"), ("one", "done"), ("pin", "done")]
    assert played.record["variables"] == {"pin": "4711#"}


async def _asks(line: Line, server: WebServer) -> Played:
    async with call(line.gateway.server, line.called, SILENCE) as caller:
        await line.said("Welcome.")
        outcomes = {name: await _run(line, name) for name in ("told", "slow", "garbage", "unknown-key")}
        await line.said("That took too long. That was no use. That was no use.")
        await line.until_there_is_room()
        caller.press("5")
        await line.said("The second one speaks.")
        refused, _ = await line.gateway.post(f"/v1/calls/{await line.call_id()}/actions/told")
        caller.press("6")
        async with asyncio.timeout(15):
            await caller.ended.wait()
    return await line.over(notes=(outcomes, refused))


async def test_a_web_server_says_what_to_do(calls: "Calls") -> None:
    """Its answer sets variables and is said; one that is late or garbage fails its step, and ``failed_say`` is said."""
    played = await calls("first")
    outcomes, _ = played.notes
    assert {name: each["result"] for name, each in outcomes.items()} == {
        "told": "done",
        "slow": "failed",
        "garbage": "failed",
        "unknown-key": "failed",
    }
    assert outcomes["slow"]["duration_s"] < 2.5
    assert "Your order is on its way." in played.text
    assert played.record["variables"]["order"] == "17"


async def test_another_agent_goes_on_with_its_own_actions(calls: "Calls") -> None:
    """After ``switch_agent`` its greeting is said, its actions run, the first one's do not, and the record names it."""
    played = await calls("first")
    _, refused = played.notes
    assert played.record["agent"] == "second"
    assert refused == 404, "the first agent's action"
    assert played.text.endswith("The second one speaks. Goodbye now.")
    assert played.actions[-2:] == [("switch", "done"), ("bye", "done")]
    assert played.record["reason"] == "action bye"


async def test_the_web_server_was_asked_in_the_agents_name(calls: "Calls") -> None:
    """Each request tells the call, the agent of that moment, the variables and what set the action off."""
    played = await calls("first")
    asked = {request.path: request.json for request in calls.server.requests}
    assert {body["call"] for path, body in asked.items() if path != "/transfer"} == {played.record["id"]}
    assert asked["/slow"]["variables"]["order"] == "17"
    assert [asked[path]["agent"] for path in ("/told?order=none", "/switch", "/bye")] == ["first", "first", "second"]
    assert asked["/switch"]["trigger"] == {"kind": "dtmf", "said": "", "dtmf": "5"}


async def _transferred(line: Line, server: WebServer) -> Played:
    async with call(line.gateway.server, line.called, SILENCE) as caller:
        caller.transfer_takes_s = 5.0
        await line.said("Welcome.")
        call_id = await line.call_id()
        caller.press("0")
        await until(lambda: bool(caller.transfers), 15, "a REFER")
        caller.say(SPEECH)  # over the agent, which goes on talking
        again = await _run(line, "again")
        status, _ = await line.gateway.post(f"/v1/calls/{call_id}/say", {"text": "Please hold the line."})
        assert status == 202
        caller.press("9")  # the agent's action that hangs up
        async with asyncio.timeout(15):
            await caller.ended.wait()
    return await line.over(notes=(caller.transfers, again))


async def test_nothing_cancels_a_transfer_under_way(calls: "Calls") -> None:
    """Neither the caller who talks over it, nor a second transfer, nor an action that hangs up, which waits for it."""
    played = await calls("patient")
    transfers, again = played.notes
    assert transfers == [f"<{DESK}>"], "one REFER"
    assert (again["result"], "under way" in again["detail"]) == ("failed", True)
    assert played.record["conversation"]["caller_speech_s"] > 1
    assert played.record["reason"] == "caller transferred"
    outcomes = {each["name"]: each for each in played.record["actions"]}
    assert outcomes["hand-over"]["result"] == "done"
    assert outcomes["hand-over"]["duration_s"] > 5
    assert outcomes["leave"]["result"] in ("cancelled", "done")


async def _sent_on(line: Line, server: WebServer) -> Played:
    async with call(line.gateway.server, line.called, SILENCE) as caller:
        await line.said("Welcome.")
        outcome = await _run(line, "send-on")
        async with asyncio.timeout(10):
            await caller.ended.wait()
    return await line.over(notes=(caller.transfers, outcome))


async def test_a_web_server_sends_the_caller_on(calls: "Calls") -> None:
    """``transfer`` in its answer is a REFER."""
    played = await calls("sent-on")
    assert played.notes[0] == [f"<{DESK}>"]
    assert played.notes[1]["result"] == "done"
    assert played.record["reason"] == "caller transferred"


# The gateway, the web server, and all of these calls.

ANSWERS = {
    "/told?order=none": 'json {"say": "Your order is on its way.", "set": {"order": "17"}}',
    "/slow": "slow 5",
    "/garbage": "garbage",
    "/unknown-key": 'json {"shout": "hello"}',
    "/switch": 'json {"switch_agent": "second"}',
    "/bye": 'json {"say": "Goodbye now.", "hang_up": true}',
    "/transfer": f'json {{"transfer": "{DESK}"}}',
}


def _answer(request: Request) -> str:
    return ANSWERS[request.path]


def _agents(port: int) -> dict[str, Any]:
    def hook(path: str, **more: Any) -> list[dict[str, Any]]:
        return [{"webhook": {"url": f"http://127.0.0.1:{port}/{path}", "timeout_s": 1, **more}}]

    useless = {"failed_say": "That was no use."}
    greeted = {"model": "tiny", "greeting": "Welcome."}
    return {
        "words": {
            "model": "tiny",
            "greeting": "Let me see, I'll put you through. Put you through, I say.",
            "variables": {"last": ""},
            "actions": [
                {"name": "through", "when": {"agent_says": ["put you through"]}, "do": [{"set": {"last": "{said}"}}]},
                {
                    "name": "see",
                    "repeat": True,
                    "when": {"agent_says": ["let me see"]},
                    "do": [{"set": {"brace": "{{"}}],
                },
                {
                    "name": "order",
                    "repeat": True,
                    "when": {"agent_says_regex": r"\border\b( is)? seven\b"},
                    "do": [{"set": {"last": "{said}"}}],
                },
            ],
        },
        "keys": {
            "model": "tiny",
            "actions": [
                {"name": "one", "when": {"dtmf": "1"}, "do": [{"set": {"pin": "none"}}]},
                {"name": "both", "when": {"dtmf": "12"}, "do": [{"set": {"pin": "none"}}]},
                {"name": "pin", "when": {"dtmf": "[0-9]{4}#"}, "do": [{"set": {"pin": "{dtmf}"}}]},
            ],
        },
        "first": greeted
        | {
            "variables": {"order": "none"},
            "actions": [
                {"name": "told", "do": hook("told?order={order}")},
                {"name": "slow", "do": hook("slow", failed_say="That took too long.")},
                {"name": "garbage", "do": hook("garbage", **useless)},
                {"name": "unknown-key", "do": hook("unknown-key", **useless)},
                {"name": "switch", "when": {"dtmf": "5"}, "do": hook("switch")},
            ],
        },
        "second": {
            "model": "tiny",
            "greeting": "The second one speaks.",
            "actions": [{"name": "bye", "when": {"dtmf": "6"}, "do": hook("bye")}],
        },
        "patient": greeted
        | {
            "actions": [
                {"name": "hand-over", "when": {"dtmf": "0"}, "do": [{"transfer": {"to": DESK}}], "timeout_s": 2},
                {"name": "again", "do": [{"transfer": {"to": "sip:300@127.0.0.1"}}]},
                {"name": "leave", "when": {"dtmf": "9"}, "do": [{"hang_up": {}}]},
            ]
        },
        "sent-on": greeted | {"actions": [{"name": "send-on", "do": hook("transfer")}]},
    }


Story = Callable[[Line, WebServer], Coroutine[Any, Any, Played]]
STORIES: dict[str, Story] = {
    "first": _asks,
    "words": _words,
    "patient": _transferred,
    "keys": _keys,
    "sent-on": _sent_on,
}


class Calls:
    """Every call, made at once; how one went is told by its number."""

    def __init__(self, tasks: dict[str, asyncio.Task[Played]], server: WebServer) -> None:
        self._tasks = tasks
        self.server = server

    async def __call__(self, number: str) -> Played:
        """Wait for the end of one."""
        return await asyncio.shield(self._tasks[number])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Calls]:
    """The calls, on their way."""
    folder = tmp_path_factory.mktemp("actions")
    async with web_server(_answer) as server, quiet_moshi(SLOTS, folder / "quiet") as url:
        models = {"tiny": SETTINGS | {"slots": SLOTS, "workers": [url]}}
        async with denwa(folder, models=models, agents=_agents(server.port)) as gateway:

            async def play(number: str, story: Story) -> Played:
                line = Line(gateway, number)
                await line.until_there_is_room()
                return await story(line, server)

            tasks = {number: asyncio.create_task(play(number, story), name=number) for number, story in STORIES.items()}
            yield Calls(tasks, server)
            for task in tasks.values():
                task.cancel()
            await asyncio.wait(tasks.values())
