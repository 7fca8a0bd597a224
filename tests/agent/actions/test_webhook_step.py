"""agent/actions/webhook_step.py: a web server that helps, and those that do not."""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from telephony.transfer import Transfer
from tests.agent.actions.scripted_call import ScriptedCall, action, running
from tests.agent.events.web_server import WebServer, web_server

PAGE = Path(__file__).parents[3] / "docs" / "events.md"


def _ask(server: WebServer, **keys: Any) -> dict[str, Any]:
    return {"webhook": {"url": server.url, "timeout_s": 0.3, "failed_say": "Sorry."} | keys}


async def test_an_answer_is_followed() -> None:
    """Variables, words, another agent, a transfer: in this order, the transfer after everything was said."""
    answer = {"say": "Hello {x}", "set": {"x": "{1}"}, "transfer": "sip:9@pbx.example.com", "switch_agent": "b"}
    call = ScriptedCall({"old": "1"})
    async with (
        web_server(lambda request: "json " + json.dumps(answer)) as server,
        running(call, [action("a", _ask(server), {"say": "never"})]) as (actions, outcomes),
    ):
        await actions.run("a", 1.0)
    assert (outcomes[0].result, outcomes[0].detail) == ("done", "")
    assert call.variables == {"old": "1", "x": "{1}"}
    assert call.done == [
        ("say", "Hello {x}"),
        ("said", None),
        ("switch_agent", "b"),
        ("said", None),
        ("transfer", "sip:9@pbx.example.com"),
    ]


async def test_a_transfer_that_was_asked_for_may_fail() -> None:
    """Then the action failed, and the call was not hung up."""
    call = ScriptedCall(transfer_ends=Transfer(False, 603, "Decline"))
    answer = {"transfer": "sip:9@pbx.example.com", "hang_up": True}
    async with (
        web_server(lambda request: "json " + json.dumps(answer)) as server,
        running(call, [action("a", _ask(server))]) as (actions, outcomes),
    ):
        await actions.run("a", 1.0)
    assert outcomes[0].detail == "step 1 (webhook): not accepted: 603 Decline"
    assert ("hang_up", "action a") not in call.done


async def test_the_server_is_told_what_it_needs_and_can_verify_it() -> None:
    """The call, the variables and the trigger, signed as docs/events.md says."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    call = ScriptedCall({"n": "a/b?c ü"})
    when = {"dtmf": "[0-9]#"}
    async with web_server(lambda request: 'json {"hang_up": true}') as server:
        signed = _ask(server, secret="s3cret", url=server.url + "/{n}?q={n}")
        async with running(call, [action("a", signed, when=when), action("b", _ask(server))]) as (actions, _):
            actions.pressed("7", 1.0)
            actions.pressed("#", 1.1)
            await server.until(1)
            await actions.run("b", 2.0)
    first, second = server.requests
    assert first.path == "/hook/a%2Fb%3Fc%20%C3%BC?q=a%2Fb%3Fc%20%C3%BC"
    assert names["verify"]("s3cret", first.headers, first.body)
    assert "webhook-signature" not in second.headers
    assert first.json == call.describe() | {"action": "a", "trigger": {"kind": "dtmf", "said": "", "dtmf": "7#"}}
    assert [what for what in call.done if what[0] == "hang_up"] == [("hang_up", "action a"), ("hang_up", "action b")]


@pytest.mark.parametrize("what", ["204", "json ", "json {}"])
async def test_an_empty_answer_means_nothing(what: str) -> None:
    """The action goes on with its next step."""
    call = ScriptedCall()
    async with (
        web_server(lambda request: what) as server,
        running(call, [action("a", _ask(server), {"say": "next"})]) as (actions, outcomes),
    ):
        await actions.run("a", 1.0)
    assert call.done == [("say", "next")]
    assert outcomes[0].steps == ("webhook", "say")


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("hang", "no answer within 0.3 s"),
        ("slow 0.6", "no answer within 0.3 s"),
        ("reset", "the connection broke|not HTTP"),
        ("garbage", "what came back is not HTTP, or broke off"),
        ("endless", "the answer is longer than 65536 bytes"),
        ("endless-head", "not HTTP"),
        ("500", "the answer has status 500"),
        ("302 location: /other", "the answer has status 302"),
        ("200 content-encoding: gzip", "compressed"),
        ("json private", "the answer is not JSON"),
        ("json " + "[" * 30_000, "the answer is (not JSON|no object)"),
        ('json ["private"]', "the answer is no object of set, say"),
        ('json {"private": 1}', "the answer is no object of set, say"),
        ('json {"say": 5}', "say cannot be used"),
        ('json {"say": "' + "private" * 1000 + '"}', "say cannot be used"),
        ('json {"set": {"a": 5}}', "set cannot be used"),
        ('json {"set": {"private private": "5"}}', "set cannot be used"),
        ('json {"hang_up": "yes"}', "hang_up cannot be used"),
        ('json {"transfer": "sip:1@private\\r\\nx: y"}', "transfer cannot be used"),
    ],
)
async def test_a_bad_answer_fails_the_step_in_its_time(what: str, why: str) -> None:
    """Whatever comes, within the time-out the agent says ``failed_say`` and the outcome says why, without content."""
    call = ScriptedCall()
    began = time.monotonic()
    async with (
        web_server(lambda request: what) as server,
        running(call, [action("a", _ask(server), {"say": "never"})]) as (actions, outcomes),
    ):
        await actions.run("a", 1.0)
    assert time.monotonic() - began < 2
    assert outcomes[0].result == "failed"
    assert re.search(why, outcomes[0].detail), outcomes[0].detail
    assert "private" not in outcomes[0].detail
    assert call.done == [("say", "Sorry.")]
    assert {request.path for request in server.requests} == {"/hook"}
    assert len(server.requests) == 1


async def test_nobody_there() -> None:
    """A port on which nobody listens is no connection."""
    async with web_server() as server:
        pass
    call = ScriptedCall()
    async with running(call, [action("a", _ask(server))]) as (actions, outcomes):
        await actions.run("a", 1.0)
    assert outcomes[0].detail == "step 1 (webhook): no connection"


@pytest.mark.parametrize("value", ["..", ".", "%2e%2E"])
async def test_a_variable_cannot_climb(value: str) -> None:
    """A variable that would be a step up in the path is refused, or stays a name."""
    call = ScriptedCall({"n": value})
    async with web_server() as server:
        step = _ask(server, url=f"http://127.0.0.1:{server.port}/public/{{n}}/x")
        async with running(call, [action("a", step)]) as (actions, _):
            await actions.run("a", 1.0)
    assert [request.path for request in server.requests] in ([], ["/public/%252e%252E/x"])


async def test_the_end_of_the_call_ends_the_wait() -> None:
    """A call that ends while a server is asked does not wait for it."""
    call = ScriptedCall()
    began = time.monotonic()
    async with web_server(lambda request: "hang") as server:
        step = _ask(server, timeout_s=30)
        async with running(call, [action("a", step, when={"dtmf": "1"})]) as (actions, outcomes):
            actions.pressed("1", 1.0)
            while not server.requests:
                await asyncio.sleep(0.01)
    assert time.monotonic() - began < 3
    assert [outcome.result for outcome in outcomes] == ["cancelled"]
    assert call.done == []
