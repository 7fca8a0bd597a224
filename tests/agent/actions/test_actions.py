"""agent/actions/action_runner.py and run.py: each trigger one run, each run one outcome."""

import asyncio
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from agent.actions.action_runner import ActionRefused, Actions, UnknownAction
from agent.actions.controls import ControlRefused
from agent.actions.outcome import ActionOutcome
from telephony.transfer import Transfer
from tests.agent.actions.scripted_call import ScriptedCall, action, running, until

BYE = {"agent_says": ["good bye"]}
HAND_OVER = {"transfer": {"to": "sip:200@pbx.example.com", "within_s": 5}}


async def test_a_phrase_in_pieces_runs_the_steps_in_order() -> None:
    """What is said is finished before the call ends; the outcome says what was done."""
    call = ScriptedCall(speech_s=0.05)
    end = action("end", {"say": "So long."}, {"send_dtmf": "12#"}, {"hang_up": {}}, when=BYE)
    async with running(call, [end]) as (actions, outcomes):
        for piece in (" Go", "od", " by"):
            actions.heard(piece, 3.0)
        await asyncio.sleep(0.01)
        assert not call.done, "the last word may go on"
        actions.heard("e", 3.2)
        actions.heard("!", 3.28)
        await until(outcomes)
    assert call.done == [("say", "So long."), ("send_dtmf", "12#"), ("said", None), ("hang_up", "action end")]
    (outcome,) = outcomes
    assert outcome.as_dict() | {"duration_s": 0} == {
        "name": "end",
        "trigger": "agent_says",
        "started_s": 3.28,
        "duration_s": 0,
        "result": "done",
        "detail": "",
        "steps": ["say", "send_dtmf", "hang_up"],
    }
    assert 0.05 <= outcome.duration_s < 1


async def test_a_pause_completes_the_last_word() -> None:
    """A flush sets off what waited, once."""
    call = ScriptedCall()
    async with running(call, [action("a", {"say": "x"}, when=BYE)]) as (actions, outcomes):
        actions.heard(" good bye", 1.0)
        actions.flush(1.4)
        actions.flush(1.8)
        await until(outcomes)
    assert len(outcomes) == 1


@pytest.mark.parametrize(("repeat", "runs"), [(False, 1), (True, 2)])
async def test_an_action_runs_once_unless_it_repeats(repeat: bool, runs: int) -> None:
    """Said again after the run: without ``repeat`` nothing happens, though the agent was changed meanwhile."""
    call = ScriptedCall()
    once = action("a", {"say": "x"}, when=BYE, repeat=repeat)
    async with running(call, [once]) as (actions, outcomes):
        actions.heard("good bye.", 1.0)
        await until(outcomes)
        actions.replace([action("b", {"say": "y"}), once])
        actions.heard(" Good bye.", 2.0)
        await until(outcomes, runs)
        await asyncio.sleep(0.02)
    assert len(outcomes) == runs


async def test_a_trigger_while_it_runs_is_ignored() -> None:
    """An action that repeats has one run at a time."""
    call = ScriptedCall(transfer_s=0.1, transfer_ends=Transfer(False, 486, "Busy Here"))
    async with running(call, [action("a", HAND_OVER, when=BYE, repeat=True)]) as (actions, outcomes):
        for _ in range(3):
            actions.heard("good bye.", 1.0)
        await until(outcomes)
        await asyncio.sleep(0.02)
    assert len(outcomes) == 1
    assert outcomes[0].detail == "step 1 (transfer): not accepted: 486 Busy Here"


async def test_a_transfer_is_cancelled_by_nobody() -> None:
    """Neither other words, keys, actions that hang up or transfer, another agent, nor the action's own limit end it."""
    call = ScriptedCall(transfer_s=0.4)
    others = [
        action("again", {"transfer": {"to": "sip:other@pbx.example.com"}}, when={"dtmf": "1"}),
        action("end", {"hang_up": {}}, when={"dtmf": "2"}),
        action("talk", {"say": "hello"}, when={"dtmf": "3"}),
    ]
    first = action("first", {"say": "One moment."}, HAND_OVER, {"say": "never"}, when=BYE, timeout_s=0.1)
    async with running(call, [first, *others]) as (actions, outcomes):
        actions.heard("good bye.", 1.0)
        await asyncio.sleep(0.05)
        assert actions.transferring
        for key in "123":
            actions.pressed(key, 2.0)
        actions.heard(" I was interrupted, good bye.", 2.5)
        actions.replace([])
        await until(outcomes, 4)
    assert call.transfers_cut == 0
    results = {outcome.name: (outcome.result, outcome.detail) for outcome in outcomes}
    assert results == {
        "first": ("done", ""),
        "again": ("failed", "step 1 (transfer): a transfer of this call is under way already"),
        "end": ("done", ""),
        "talk": ("done", ""),
    }
    assert [what for what in call.done if what[0] in ("transfer", "hang_up", "say")] == [
        ("say", "One moment."),
        ("transfer", "sip:200@pbx.example.com"),
        ("say", "hello"),
        ("hang_up", "action end"),
    ]


async def test_a_transfer_that_fails_is_told_and_the_call_goes_on() -> None:
    """``failed_say`` is said, the rest of the steps is not done."""
    call = ScriptedCall({"who": "7"}, transfer_ends=Transfer(False, 480, "Temporarily Unavailable"))
    step = {"transfer": {"to": "sip:{who}@pbx.example.com", "failed_say": "{who} is not there."}}
    async with running(call, [action("a", step, {"hang_up": {}})]) as (actions, outcomes):
        outcome = await actions.run("a", 5.0)
    assert (outcome.result, outcome.trigger, outcome.started_s) == ("failed", "api", 5.0)
    assert outcome.detail == "step 1 (transfer): not accepted: 480 Temporarily Unavailable"
    assert call.done == [("said", None), ("transfer", "sip:7@pbx.example.com"), ("say", "7 is not there.")]
    assert outcomes == [outcome]


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ({"say": "Hello {nobody}"}, "step 1 (say): there is no variable 'nobody'"),
        ({"send_dtmf": "{word}"}, "step 1 (send_dtmf): 1 to 31 of 0-9, A-D, * and # can be dialled"),
        ({"transfer": {"to": "{word}"}}, "step 1 (transfer): the target is no SIP URI once its variables are in it"),
        (
            {"transfer": {"to": "sip:a@b>,<sip:c@d"}},
            "step 1 (transfer): the target is no SIP URI once its variables are in it",
        ),
    ],
)
async def test_a_step_that_cannot_be_done_says_why(step: dict[str, Any], why: str) -> None:
    """The detail names the step and the reason, and nothing that was said or pressed."""
    call = ScriptedCall({"word": "private words"})
    async with running(call, [action("a", step, {"say": "never"})]) as (actions, outcomes):
        await actions.run("a", 0.0)
    assert (outcomes[0].result, outcomes[0].detail, outcomes[0].steps) == ("failed", why, ())
    assert ("say", "never") not in call.done


async def test_no_fault_escapes() -> None:
    """A call that refuses, breaks or an outcome that nobody takes end the run at most; the others go on."""
    call = ScriptedCall(broken=ControlRefused("the call has no voice"))
    talk = action("talk", {"say": "x"}, repeat=True)
    async with running(call, [talk, action("keys", {"send_dtmf": "1"})]) as (actions, outcomes):
        await actions.run("talk", 0.0)
        call.broken = RuntimeError("private")
        with capture_logs() as logs:
            await actions.run("talk", 0.0)
        await actions.run("keys", 0.0)
    assert [outcome.detail for outcome in outcomes] == [
        "step 1 (say): the call has no voice",
        "step 1 (say): a fault of Denwa (RuntimeError)",
        "",
    ]
    assert [line["event"] for line in logs] == ["action.fault", "action.ended"]

    def deaf(outcome: ActionOutcome) -> None:
        raise ValueError("nobody listens")

    async with httpx.AsyncClient(trust_env=False) as http, asyncio.TaskGroup() as tasks:
        actions = Actions([talk], ScriptedCall(), tasks, deaf, http)
        with capture_logs() as logs:
            assert (await actions.run("talk", 0.0)).result == "done"
            await asyncio.sleep(0)
        await actions.wait_closed()
    assert "action.outcome_lost" in [line["event"] for line in logs]


async def test_an_action_has_its_time() -> None:
    """Beyond ``timeout_s`` it ends, and says in which step it was."""
    call = ScriptedCall()
    slow = action("a", {"say": "x"}, {"hang_up": {"after_s": 5}}, timeout_s=0.05)
    async with running(call, [slow]) as (actions, outcomes):
        await actions.run("a", 0.0)
    assert outcomes[0].result == "timed_out"
    assert outcomes[0].detail == "step 2 (hang_up): not done 0.05 s after the action began"
    assert outcomes[0].steps == ("say",)


async def test_the_end_of_the_call_ends_what_runs() -> None:
    """Every run has its outcome, those that were about to begin too; nothing is set off afterwards."""
    call = ScriptedCall()
    wait = action("wait", {"hang_up": {"after_s": 50}}, when=BYE)
    unborn = action("unborn", {"say": "x"}, when={"dtmf": "1"})
    async with running(call, [wait, unborn]) as (actions, outcomes):
        actions.heard("good bye.", 1.0)
        await asyncio.sleep(0.01)
        actions.pressed("1", 2.0)
        await actions.wait_closed()
        assert {outcome.name: outcome.result for outcome in outcomes} == {"wait": "cancelled", "unborn": "cancelled"}
        actions.pressed("1", 3.0)
        actions.heard(" good bye.", 3.0)
        with pytest.raises(ActionRefused, match="over"):
            await actions.run("unborn", 3.0)
    assert len(outcomes) == 2
    assert call.done == []


async def test_a_transfer_that_ends_the_call_is_done_not_cancelled() -> None:
    """The call is over because the target answered: that is success, though the call's end came first."""
    call = ScriptedCall(transfer_s=0.1)
    async with running(call, [action("a", HAND_OVER, when=BYE)]) as (actions, outcomes):
        actions.heard("good bye.", 1.0)
        await asyncio.sleep(0.02)
    assert [outcome.result for outcome in outcomes] == ["done"]
    call = ScriptedCall(transfer_s=50)
    async with running(call, [action("a", HAND_OVER, when=BYE)]) as (actions, outcomes):
        actions.heard("good bye.", 1.0)
        await asyncio.sleep(0.02)
    assert [outcome.result for outcome in outcomes] == ["cancelled"]


async def test_a_group_that_is_cancelled_has_outcomes_too() -> None:
    """Where the tasks are cancelled from outside, each run still has its outcome, and no exception comes of it."""
    outcomes: list[ActionOutcome] = []
    call = ScriptedCall()

    async def session(http: httpx.AsyncClient) -> None:
        async with asyncio.TaskGroup() as tasks:
            actions = Actions([action("a", {"hang_up": {"after_s": 50}}, when=BYE)], call, tasks, outcomes.append, http)
            actions.heard("good bye.", 1.0)
            await asyncio.sleep(50)

    async with httpx.AsyncClient(trust_env=False) as http:
        task = asyncio.create_task(session(http))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert [outcome.result for outcome in outcomes] == ["cancelled"]


async def test_keys_set_off_what_they_make_up() -> None:
    """The keys are a variable; a key that may be the beginning of more waits for two seconds."""
    call = ScriptedCall()
    code = action("code", {"set": {"code": "{dtmf}"}}, {"say": "{code}"}, when={"dtmf": "[0-9]{4}#"})
    zero = action("zero", {"say": "zero"}, when={"dtmf": "0"})
    async with running(call, [code, zero]) as (actions, outcomes):
        for number, key in enumerate("1234#"):
            actions.pressed(key, 1.0 + number / 10)
        await until(outcomes)
        actions.pressed("0", 5.0)
        await asyncio.sleep(0.05)
        assert len(outcomes) == 1
        await until(outcomes, 2)
    assert call.done == [("say", "1234#"), ("say", "zero")]
    assert call.variables == {"code": "1234#"}
    assert "1234" not in str(outcomes)


async def test_another_agent_has_other_actions_and_the_old_run_goes_on() -> None:
    """After ``switch_agent`` the remaining steps are done; new triggers are the new agent's."""

    class Switching(ScriptedCall):
        async def switch_agent(self, name: str) -> None:
            await super().switch_agent(name)
            runner.replace([action("new", {"say": "new"}, when=BYE)])

    call = Switching()
    old = action("old", {"switch_agent": "survey"}, {"say": "{said}"}, when={"agent_says_regex": "survey|tax(es)?"})
    async with running(call, [old]) as (runner, outcomes):
        runner.heard("About taxes: survey. ", 1.0)
        await until(outcomes)
        runner.heard("survey good bye.", 2.0)
        await until(outcomes, 2)
    assert call.done == [("said", None), ("switch_agent", "survey"), ("say", "taxes"), ("say", "new")]


async def test_the_api_is_told_what_cannot_run() -> None:
    """An unknown action, one that runs, and one that has run are refused in words."""
    call = ScriptedCall(transfer_s=0.05, transfer_ends=Transfer(False, 603, "Decline"))
    async with running(call, [action("a", HAND_OVER)]) as (actions, outcomes):
        with pytest.raises(UnknownAction, match="no action 'b'"):
            await actions.run("b", 0.0)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(actions.run("a", 0.0))
            await asyncio.sleep(0.01)
            with pytest.raises(ActionRefused, match="a is running"):
                await actions.run("a", 0.0)
        with pytest.raises(ActionRefused, match="has run in this call"):
            await actions.run("a", 0.0)
    assert len(outcomes) == 1


async def test_who_waits_may_go_away() -> None:
    """A client that hangs up does not end the action it started."""
    call = ScriptedCall(transfer_s=0.05)
    async with running(call, [action("a", HAND_OVER)]) as (actions, outcomes):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await actions.run("a", 0.0)
        await until(outcomes)
    assert outcomes[0].result == "done"


async def test_neither_keys_nor_words_are_logged() -> None:
    """No line of the log of any level holds them."""
    call = ScriptedCall()
    private = action("a", {"say": "{said}{dtmf}"}, {"say": "{nobody}"}, when={"dtmf": "[0-9]{6}"})
    with capture_logs() as logs:
        async with running(call, [private, action("b", {"say": "{said}"}, when=BYE)]) as (actions, outcomes):
            for key in "246810":
                actions.pressed(key, 1.0)
            actions.heard("good bye.", 2.0)
            await until(outcomes, 2)
    assert logs
    assert "246810" not in str(logs) + str(outcomes)
    assert "bye" not in str(logs) + str(outcomes)
