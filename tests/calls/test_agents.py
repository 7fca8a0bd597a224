"""The agents that come with Denwa, and what an agent's file can ask for: each called, and judged by what is kept of it.

All calls are made at once, so that the file takes as long as its longest call. The model is a Moshi that says what it
is given to say and nothing else (tests/peers/quiet_moshi.py), so callers are met with silence too. Unrealistic for the
front desk, whose own model greets and asks by itself: here its routes give it the greeting.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import soundfile

from config.schema import ModelSettings
from tests.model_runtime.worker.process import WorkerProcess
from tests.peers import audio, rtp
from tests.peers.audio import Samples, write_wav
from tests.peers.baresip import baresip
from tests.peers.called import Line, Played, until
from tests.peers.caller import Caller, CallRefused, call
from tests.peers.denwa import denwa
from tests.peers.quiet_moshi import SETTINGS, quiet_moshi

pytestmark = [pytest.mark.peer("baresip"), pytest.mark.asyncio(loop_scope="module")]

RATE = 8_000
SLOTS = 4
SILENCE = np.zeros(RATE, np.int16)
SPEECH = audio.chirps(-20, 3.0, RATE, seed=4)
MESSAGE_HZ, MESSAGE_S = 700, 1.5
WAV_S = 3.0
ASIDE = "sip:200@127.0.0.1"
TINY = {"model": "tiny"}
GREETED = TINY | {"greeting": "Good morning, how can I help you?"}


async def _phone(line: Line, program: list[Samples], keys: Callable[[Any], Coroutine[Any, Any, None]]) -> Played:
    """Call with baresip, which plays the program and then is silent; ``keys`` does what its user does."""
    silence = np.zeros(60 * RATE, np.int16)
    play = write_wav(line.gateway.folder / f"{line.called}.wav", np.concatenate([*program, silence]), RATE)
    async with baresip(play) as phone:
        await phone.dial(f"sip:{line.called}@127.0.0.1:{line.gateway.sip_port}")
        await keys(phone)
        played = await line.over()
        played.heard = phone.recording()
        return played


@contextlib.asynccontextmanager
async def _caller(line: Line, speech: Samples = SILENCE) -> AsyncIterator[Caller]:
    async with call(line.gateway.server, line.called, speech) as caller:
        yield caller


# The five agents that come with Denwa.


async def _line_test(line: Line) -> Played:
    async def listen(phone: Any) -> None:
        await asyncio.sleep(3)
        await phone.hangup()

    return await _phone(line, [audio.tone(1_000, -10, 10, RATE)], listen)


async def test_the_line_test_echoes(calls: "Calls") -> None:
    """Callers hear themselves, and of what they say no word is kept."""
    played = await calls("echo")
    assert played.record["agent"] == "echo"
    assert (played.record["result"], played.record["reason"]) == ("completed", "caller hung up")
    assert played.record["codec"] == "PCMU"
    assert played.record["rtp"]["received"] > 100
    assert played.record["transcript"] is None
    tone = audio.cleanest_tone(played.heard, RATE, 1_000)
    assert tone.snr > 30, tone
    assert abs(tone.level - -10) < 0.5, tone


async def _silent_caller(line: Line) -> Played:
    async def wait(phone: Any) -> None:
        pass

    return await _phone(line, [], wait)


async def test_the_front_desk_asks_a_silent_caller_and_gives_up(calls: "Calls") -> None:
    """It greets, asks whether anybody is there, says goodbye and hangs up; the route made the silence short."""
    played = await calls("40")
    assert played.record["agent"] == "front-desk"
    assert played.text == "Good morning, how can I help you? Are you still there? Goodbye."
    assert played.record["reason"] == "caller silent"
    asked = [
        next(word["t"] for word in played.words if word["text"] == text) for text in (" help", " Are", " Goodbye.")
    ]
    assert min(np.diff(asked)) > 2.0, "each question waits for its own silence"


async def _wants_a_person(line: Line) -> Played:
    async with _caller(line) as caller:
        caller.transfer_status = 200 if line.called == "41" else 486
        await line.said("help you?")
        caller.press("0")
        if caller.transfer_status == 200:
            async with asyncio.timeout(20):
                await caller.ended.wait()
        else:
            await line.said("connect you. How can I help you?")
    return await line.over(notes=caller.transfers)


async def test_the_front_desk_hands_over(calls: "Calls") -> None:
    """At ``0`` the caller is told so, and the words send him to the person; when that answers, the call ends."""
    played = await calls("41")
    assert played.text == "Good morning, how can I help you? One moment, I will connect you."
    assert played.notes == [f"<{ASIDE}>"]
    assert played.actions == [("person", "done"), ("connect", "done")]
    assert played.record["reason"] == "caller transferred"
    assert played.record["variables"] == {"person": ASIDE}


async def test_the_front_desk_goes_on_when_nobody_is_free(calls: "Calls") -> None:
    """A transfer that is refused leaves the caller with the agent, who says so."""
    played = await calls("42")
    assert played.text.endswith("I will connect you. I am sorry, I can not connect you. How can I help you?")
    assert played.actions == [("person", "done"), ("connect", "failed")]
    assert "486" in played.record["actions"][1]["detail"]
    assert played.record["reason"] == "caller hung up"


async def _answers_the_survey(line: Line) -> Played:
    async def answer(phone: Any) -> None:
        await line.said("from one to five.")
        await phone.command("sndcode", "9")
        await line.said("to five. Please press a key from one to five.")
        await phone.command("sndcode", "4")

    return await _phone(line, [SPEECH] * 10, answer)


async def test_the_survey_takes_an_answer_and_hangs_up(calls: "Calls") -> None:
    """After the announcement it asks, and asks again after a wrong key; the answer is kept in the record."""
    played = await calls("survey")
    assert played.text == (
        "This call is recorded. How happy were you with our service? Please press a key from one to five. "
        "Please press a key from one to five. Thank you for your answer. Goodbye."
    )
    assert played.actions == [("other-key", "done"), ("rating", "done")]
    assert played.record["variables"] == {"rating": "4"}
    assert played.record["reason"] == "action rating"


async def test_the_survey_is_recorded_from_the_consent_on(calls: "Calls") -> None:
    """Until the announcement is said both channels are silent, though both sides are heard; afterwards none is."""
    played = await calls("survey")
    sound, rate = soundfile.read(played.record["recording"], dtype="int16")
    asked_at = next(word["t"] for word in played.words if word["text"] == " How")
    announced_until = next(word["end"] for word in played.words if word["text"] == " recorded.")
    before, after = sound[: round((announced_until - 0.5) * rate)], sound[round((asked_at + 0.5) * rate) :]
    assert len(before) > rate
    assert not before.any()
    assert [audio.level(channel[: 5 * rate]) > -45 for channel in after.T] == [True, True]
    assert audio.level(played.heard[: round(announced_until * RATE)]) > -40, "the announcement was heard"


async def test_what_is_kept_goes_when_the_base_says(calls: "Calls") -> None:
    """The survey's file says nothing of retention: it comes from ``_base.yaml``; the model is its own."""
    record = (await calls("survey")).record
    due = [datetime.fromisoformat(record[f"delete_{part}_at"]) for part in ("audio", "text", "record")]
    assert [each - datetime.fromisoformat(record["ended_at"]) for each in due] == [
        timedelta(days=days) for days in (30, 90, 365)
    ]
    assert record["model"] == "tiny"


async def _answers_too_early(line: Line) -> Played:
    async with _caller(line) as caller:
        await line.said("This call")
        caller.press("4")
        async with asyncio.timeout(25):
            await caller.ended.wait()
    return await line.over()


async def test_an_answer_before_the_question_does_not_turn_the_call_round(calls: "Calls") -> None:
    """A key during the announcement counts; what the agent says to it comes after its greeting, and then it goes."""
    played = await calls("survey-2")
    assert played.text == (
        "This call is recorded. How happy were you with our service? Please press a key from one to five. "
        "Thank you for your answer. Goodbye."
    )
    assert played.record["variables"] == {"rating": "4"}


async def _leaves_a_message(line: Line) -> Played:
    async def wait(phone: Any) -> None:
        pass

    return await _phone(line, [np.zeros(9 * RATE, np.int16), SPEECH], wait)


async def test_a_message_is_left_after_hours(calls: "Calls") -> None:
    """It greets, records what is said, and ends after six seconds of silence."""
    played = await calls("after-hours")
    assert played.text == (
        "Our office is closed. We are back tomorrow at eight. Please leave a message after this. Thank you. Goodbye."
    )
    assert played.record["reason"] == "caller silent"
    sound, rate = soundfile.read(played.record["recording"], dtype="int16")
    message = audio.longest_sound(_smoothed(sound[:, 1], rate), rate)
    assert 2 < message.size / rate < 4, "the message is the right channel"
    thanked_at = next(word["t"] for word in played.words if word["text"] == " Thank")
    spoke_until = 9 + SPEECH.size / RATE
    assert 5.5 < thanked_at - spoke_until < 8, thanked_at


def _smoothed(sound: Samples, rate: int) -> Samples:
    """The loudest of each 0.4 s: pauses within speech are filled."""
    blocks = np.abs(sound[: sound.size // (rate // 50) * (rate // 50)].astype(np.int32)).reshape(-1, rate // 50).max(1)
    filled = np.array([blocks[max(0, i - 10) : i + 10].max() for i in range(blocks.size)])
    return np.repeat(filled, rate // 50).clip(0, 32_767).astype(np.int16)


async def _says_hello(line: Line) -> Played:
    async def confirm(phone: Any) -> None:
        await line.said("two to cancel.")
        await phone.command("sndcode", "1")

    return await _phone(line, [np.zeros(round(1.2 * RATE), np.int16), SPEECH[:RATE]], confirm)


async def test_the_reminder_lets_the_other_side_speak_first(calls: "Calls") -> None:
    """Nothing is said until the caller has spoken; then the reminder comes, and ``1`` confirms."""
    played = await calls("reminder")
    assert played.text == (
        "Hello, this is a reminder of your appointment tomorrow at ten. Press one to confirm, or two to cancel. "
        "Your appointment is confirmed. Goodbye."
    )
    assert 2.0 < played.words[0]["t"] < 4.0, "after his word, and before it would have come anyway"
    assert played.record["variables"] == {"answer": "confirmed"}
    assert played.record["reason"] == "action confirm"


async def _says_nothing_at_all(line: Line) -> Played:
    async with _caller(line) as caller:
        await line.said("two to cancel.")
        caller.press("2")
        async with asyncio.timeout(20):
            await caller.ended.wait()
    return await line.over()


async def test_the_reminder_does_not_wait_for_ever(calls: "Calls") -> None:
    """Somebody who says nothing is spoken to after four seconds; ``2`` cancels."""
    played = await calls("reminder-2")
    assert 4.0 <= played.words[0]["t"] < 5.5
    assert played.record["variables"] == {"answer": "cancelled"}
    assert played.record["reason"] == "action cancel"


# What else an agent's file, or a route, can ask for.


async def _hears_it_out(line: Line) -> Played:
    async with _caller(line) as caller:
        async with asyncio.timeout(30):
            await caller.ended.wait()
    return await line.over()


async def test_a_closed_line_says_so(calls: "Calls") -> None:
    """Outside of its hours an agent says its ``closed_message`` and hangs up; its actions do not run."""
    played = await calls("closed")
    assert played.text == "We are closed. Goodbye."
    assert played.record["reason"] == "closed"
    assert played.record["actions"] == []


async def _greeted(line: Line) -> Played:
    async with _caller(line):
        await line.said(LAST_WORDS[line.called])
    return await line.over()


LAST_WORDS = {"closed-to": "leave a message after this.", "43": "Accounting, good morning.", "jingle": "five six"}


async def test_another_agent_answers_a_closed_line(calls: "Calls") -> None:
    """``closed_agent`` answers in its own name."""
    assert (await calls("closed-to")).record["agent"] == "after-hours"


async def test_a_route_overrides_its_agent(calls: "Calls") -> None:
    """One key is different on a route, the others stay."""
    played = await calls("43")
    assert played.record["agent"] == "front-desk"
    assert played.text == "Accounting, good morning."
    assert played.record["variables"] == {"person": ASIDE}


async def test_a_greeting_may_be_a_file(calls: "Calls") -> None:
    """The words of ``greeting`` are told over the length of ``greeting_wav``, as the agent's own."""
    played = await calls("jingle")
    assert played.text == "One two three four five six"
    times = [word["t"] for word in played.words]
    assert times[0] < 0.8
    assert WAV_S * 0.6 < times[-1] - times[0] < WAV_S, times
    ends = [line for line in played.lines if "text" not in line and "segment" in line]
    assert all(line.get("scripted") for line in ends)


async def test_a_call_ends_when_its_time_is_up(calls: "Calls") -> None:
    """``max_duration_s`` counts from the answer."""
    record = (await calls("limited")).record
    assert record["reason"] == "maximum duration reached"
    assert 2.0 <= _duration_s(record) < 3.5


def _duration_s(record: dict[str, Any]) -> float:
    spent = datetime.fromisoformat(record["ended_at"]) - datetime.fromisoformat(record["answered_at"])
    return spent.total_seconds()


async def _gets_no_answer(line: Line) -> Played:
    async with _caller(line, SPEECH):
        call_id = await line.call_id()

        def alerts() -> list[dict[str, Any]]:
            return [
                each for each in line.gateway.log() if each.get("event") == "call.alert" and each["call"] == call_id
            ]

        await until(lambda: bool(alerts()), 15, "an alert")
        await asyncio.sleep(3)
        once = len(alerts())
        assert (await line.gateway.post(f"/v1/calls/{call_id}/say", {"text": "I am here."}))[0] == 202
        await line.said("I am here.")
        await until(lambda: len(alerts()) > once, 15, "a second alert")
        kinds = [each["kind"] for each in alerts()]
    return await line.over(notes=(kinds, once))


async def test_an_agent_that_is_not_heard_is_an_alert(calls: "Calls") -> None:
    """Once for each silence of the agent's, while the caller speaks."""
    kinds, once = (await calls("absent")).notes
    assert once == 1
    assert kinds == ["agent_silent"] * 2


async def _full(line: Line) -> Played:
    """Take the model's only slot, then see what three others get."""
    gateway, notes = line.gateway, {}
    async with _caller(line):
        message = Line(gateway, "full-message")
        async with _caller(message) as caller:
            async with asyncio.timeout(10):
                await caller.ended.wait()
        notes["message"] = (await message.over()).record
        notes["heard"] = rtp.samples(caller.heard)
        for number in ("full-transfer", "full-busy"):
            with pytest.raises(CallRefused) as refused:
                async with _caller(Line(gateway, number)):
                    pass
            notes[number] = refused.value
    return await line.over(notes=notes)


async def test_a_full_model_plays_a_message(calls: "Calls") -> None:
    """``fallback.full: message``: the call is answered, the file heard to its end, and the call recorded."""
    notes = (await calls("hog")).notes
    _has_message(notes["heard"])
    assert notes["message"]["agent"] == "full-message"
    assert notes["message"]["reason"] == "no free slot, message played"


async def test_a_full_model_sends_callers_elsewhere(calls: "Calls") -> None:
    """``fallback.full: transfer`` is a 302 that names the target, ``busy`` a 503 that names a time."""
    notes = (await calls("hog")).notes
    assert notes["full-transfer"].status == 302
    assert ASIDE in notes["full-transfer"].headers["contact"]
    assert notes["full-busy"].status == 503
    assert int(notes["full-busy"].headers["retry-after"]) >= 1


def _has_message(heard: Samples) -> None:
    sound = audio.longest_sound(heard, RATE)
    assert sound.size / RATE > 0.5, "a late machine may break it in two"
    tone = audio.cleanest_tone(sound, RATE, MESSAGE_HZ)
    assert tone.snr > 20, tone
    assert tone.level == pytest.approx(-12, abs=1.0)


async def _lost(line: Line, worker: WorkerProcess) -> Played:
    """Three calls whose model dies and stays away."""
    numbers = ("lost-message", "lost-transfer", "lost-end")
    lines = {number: Line(line.gateway, number) for number in numbers}
    async with contextlib.AsyncExitStack() as stack:
        callers = {number: await stack.enter_async_context(_caller(lines[number], SPEECH)) for number in numbers}
        since = time.monotonic()
        await until(lambda: all(each.hears_since(since) for each in callers.values()), 10, "all hear themselves")
        os.kill(worker.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        async with asyncio.timeout(15):
            await asyncio.gather(*[each.ended.wait() for each in callers.values()])
    after_s = {number: (each.ended_at or 0) - killed_at for number, each in callers.items()}
    heard = [packet for packet in callers["lost-message"].heard if packet.at > killed_at + 0.6]
    records = {number: (await each.over()).record for number, each in lines.items()}
    notes = (records, after_s, rtp.samples(heard), callers["lost-transfer"].transfers)
    return Played(records["lost-message"], [], SILENCE, notes)


async def test_a_lost_model_is_made_up_for(calls: "Calls") -> None:
    """After ``lost_after_s`` the message is played to its end, or the caller handed over, or the call ended."""
    records, after_s, heard, transfers = (await calls("lost")).notes
    _has_message(heard)
    assert transfers == [f"<{ASIDE}>"]
    assert {number: record["reason"] for number, record in records.items()} == {
        "lost-message": "model lost",
        "lost-transfer": "caller transferred",
        "lost-end": "model lost",
    }
    assert all(seconds >= 1.0 for seconds in after_s.values()), after_s
    assert after_s["lost-end"] < 4.0
    assert after_s["lost-message"] - after_s["lost-end"] > MESSAGE_S - 0.5


# The gateway, and all of these calls.

Story = Callable[[Line], Coroutine[Any, Any, Played]]
STORIES: dict[str, Story] = {
    "survey": _answers_the_survey,
    "after-hours": _leaves_a_message,
    "40": _silent_caller,
    "survey-2": _answers_too_early,
    "reminder": _says_hello,
    "reminder-2": _says_nothing_at_all,
    "41": _wants_a_person,
    "42": _wants_a_person,
    "absent": _gets_no_answer,
    "closed": _hears_it_out,
    "closed-to": _greeted,
    "43": _greeted,
    "jingle": _greeted,
    "limited": _hears_it_out,
    "echo": _line_test,
    "hog": _full,
}
"""The longest first, by the number that each calls."""

Calls = Callable[[str], Coroutine[Any, Any, Played]]


def _agents(folder: Path) -> dict[str, Any]:
    message = str(write_wav(folder / "message.wav", audio.tone(MESSAGE_HZ, -12, MESSAGE_S, 24_000), 24_000))
    jingle = str(write_wav(folder / "jingle.wav", audio.chirps(-20, WAV_S, 24_000, seed=8), 24_000))
    other = {"message_wav": message, "transfer_to": ASIDE, "lost_after_s": 1}
    hello = {"name": "never", "when": {"agent_says": ["closed"]}, "do": [{"set": {"heard": "yes"}}]}
    return {
        "closed": {"hours": {"open": {}, "closed_message": "We are closed. Goodbye."}, "actions": [hello]} | TINY,
        "closed-to": {"hours": {"open": {}, "closed_agent": "after-hours"}} | TINY,
        "jingle": {"greeting": "One two three four five six", "greeting_wav": jingle} | TINY,
        "limited": {"model": "echo", "max_duration_s": 2},
        "absent": {"greeting": "Hello.", "agent_silence_s": 2} | TINY,
        "hog": {"model": "one"},
        **{f"full-{it}": {"model": "one", "fallback": other | {"full": it}} for it in ("message", "transfer", "busy")},
        **{
            f"lost-{it}": {"model": "remote", "fallback": other | {"lost": it}} for it in ("message", "transfer", "end")
        },
    }


def _routes(agents: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        *({"called": name, "agent": name} for name in agents),
        {"called": "survey-2", "agent": "survey"},
        {"called": "reminder-2", "agent": "reminder"},
        {"called": "40", "agent": "front-desk", "override": GREETED | {"caller_silence_s": 2}},
        {"called": "41", "agent": "front-desk", "override": GREETED},
        {"called": "42", "agent": "front-desk", "override": GREETED},
        {"called": "43", "agent": "front-desk", "override": TINY | {"greeting": "Accounting, good morning."}},
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Calls]:
    """Every call, made at once; how one went is told by its number."""
    folder = tmp_path_factory.mktemp("agents")
    remote = WorkerProcess(ModelSettings(kind="echo", slots=4))
    agents = _agents(folder)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(remote.close)
        await remote.start()
        url = await stack.enter_async_context(quiet_moshi(SLOTS, folder / "quiet"))
        models = {
            "tiny": SETTINGS | {"slots": SLOTS, "workers": [url]},
            "front-desk": {"kind": "echo", "slots": 1},  # no call comes to it
            "one": {"kind": "echo", "slots": 1},
            "remote": {"kind": "echo", "slots": 4, "workers": [remote.url]},
        }
        gateway = await stack.enter_async_context(
            denwa(folder, shipped=True, models=models, agents=agents, routes=_routes(agents), sip={"max_calls": 32})
        )
        room = asyncio.Semaphore(SLOTS)

        async def play(number: str, story: Story) -> Played:
            async with room:
                line = Line(gateway, number)
                await line.until_there_is_room()
                return await story(line)

        tasks = {number: asyncio.create_task(play(number, story), name=number) for number, story in STORIES.items()}
        tasks["lost"] = asyncio.create_task(_lost(Line(gateway, "lost"), remote), name="lost")

        async def played(number: str) -> Played:
            return await asyncio.shield(tasks[number])

        yield played
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values())
