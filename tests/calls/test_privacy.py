"""What must not be written down is found nowhere on disk, and what was deleted neither: every file is searched.

One gateway that keeps all it can keep, a receiver of events that takes none (so that they wait on disk), and callers
whose cards, addresses and names are said by the agent, pressed as keys, and set by a web server.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.agent.events.web_server import Request, WebServer, web_server
from tests.peers import audio
from tests.peers.called import Line, Played
from tests.peers.caller import call
from tests.peers.denwa import ROOT, Denwa, denwa
from tests.peers.quiet_moshi import SETTINGS, quiet_moshi

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOTS = 4
SPEECH = audio.chirps(-20, 3.0, 8_000, seed=9)

CARD = "4111111111111111"
SPOKEN = "four one one one one one one one. One one one one one one one one."
MAIL, SPOKEN_MAIL = "anna.muster@example.com", "anna at example dot com"
CODE, SPOKEN_CODE = "C-482915", "agent hollyhock"
PLANTED = (CARD, "4111 1111", "one one one", "One one", MAIL, "anna.muster", "anna at", "anna", CODE, "hollyhock")
"""Nothing of this may be written, in whatever form it came."""
SAID = "Pelicans do not fly at night."
"""What is no secret, but speech: kept in transcripts, never logged."""

PLAIN, SHORT, NOTHING, ASKED = "4930555123", "4930777456", "4930888789", "4930666321"
"""Callers: one whose data is deleted through the API, two whose is due at once, one that the command deletes."""
NUMBERS = {PLAIN: "clerk", SHORT: "short", NOTHING: "nothing", ASKED: "asked"}


@dataclass
class Kept:
    """The gateway after the calls, and how they went, by caller."""

    gateway: Denwa
    calls: dict[str, Played]
    hook: WebServer

    def holding(self, *texts: str, but: tuple[str, ...] = ()) -> dict[str, list[str]]:
        """The files with one of these texts in their content or name; the configuration is the operator's own."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.gateway.folder.rglob("*")):
            name = str(path.relative_to(self.gateway.folder))
            if not path.is_file() or name in ("denwa.yaml", *but):
                continue
            content = path.read_bytes()
            held = [text for text in texts if text.encode() in content or text in name]
            if held:
                found[name] = held
        return found


async def _talk(line: Line, number: str) -> Played:
    """A call in which everything happens that can put a secret on disk."""
    gateway = line.gateway
    async with call(gateway.server, line.called, SPEECH, name=number) as caller:
        await line.call_id()
        url = f"/v1/calls/{await line.call_id()}"
        for text in (f"Your card is {SPOKEN}", f"Your mail is {SPOKEN_MAIL}. Ask for {SPOKEN_CODE}.", SAID):
            assert (await gateway.post(f"{url}/say", {"text": text}))[0] == 202
        caller.press(CARD + "#")
        await asyncio.sleep(4.5)  # sixteen keys
        status, outcome = await gateway.post(f"{url}/actions/useless")
        assert (status, outcome["result"]) == (200, "failed")
        await asyncio.sleep(9)  # all of it is said
        assert (await gateway.post(f"{url}/hangup", {"reason": f"customer {CODE} of {MAIL} with {CARD}"}))[0] == 202
        async with asyncio.timeout(20):
            await caller.ended.wait()
    return await line.over()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kept]:
    """All calls, made and over."""
    folder = tmp_path_factory.mktemp("privacy")

    def answer(request: Request) -> str:
        if request.path.startswith("/events"):
            return "500"
        if request.path.startswith("/useless"):
            return f'json {{"say": 17, "{MAIL}": "{CARD}"}}'
        return f'json {{"set": {{"mail": "{MAIL}", "code": "{CODE}", "spoken": "{SPOKEN_MAIL}, {SPOKEN_CODE}"}}}}'

    async with web_server(answer) as hook, quiet_moshi(SLOTS, folder / "quiet") as url:
        privacy = {
            "redact": ["card_number", "email", "phone"],
            "patterns": {"customer": "C-[0-9]{6}", "code": "agent [a-z]+"},
        }
        receiver = {"url": f"http://127.0.0.1:{hook.port}/events", "secret": "whsec_AAAA"}
        async with denwa(
            folder,
            models={"tiny": SETTINGS | {"slots": SLOTS, "workers": [url]}},
            agents=_agents(hook.port),
            privacy=privacy,
            events={"webhooks": {"crm": receiver}},
        ) as gateway:
            lines = {number: Line(gateway, called) for number, called in NUMBERS.items()}
            await lines[PLAIN].until_there_is_room()
            played = await asyncio.gather(*[_talk(line, number) for number, line in lines.items()])
            yield Kept(gateway, dict(zip(NUMBERS, played, strict=True)), hook)


def _agents(port: int) -> dict[str, Any]:
    hook = f"http://127.0.0.1:{port}"
    pressed = {"when": {"dtmf": "[0-9]{16}#"}}
    agent = {
        "model": "tiny",
        "recording": {"enabled": True},
        "actions": [
            {
                "name": "card",
                **pressed,
                "do": [{"set": {"card": "{dtmf}"}}, {"webhook": {"url": hook + "/look/{card}"}}],
            },
            {"name": "useless", "do": [{"webhook": {"url": hook + "/useless"}}]},
        ],
    }
    return {
        "clerk": agent,
        "short": agent | {"retention": {"audio_days": 0, "text_days": 0}},
        "nothing": agent | {"retention": {"record_days": 0}},
        "asked": agent,
    }


async def test_what_was_planted_went_through_the_calls(kept: Kept) -> None:
    """Else its absence would show nothing: the web server got the card, the record's variables tell of each."""
    asked = [request for request in kept.hook.requests if request.path.startswith("/look/")]
    assert {request.path for request in asked} == {f"/look/{CARD}%23"}
    assert len(asked) == len(NUMBERS)
    for played in kept.calls.values():
        assert played.record["variables"] == {
            "card": "[card_number]#",
            "mail": "[email]",
            "code": "[customer]",
            "spoken": "[email], [code]",
        }
        assert "Your card is [card_number]" in played.text
        assert "Your mail is [email]" in played.text
        assert "Ask for [code]" in played.text


async def test_secrets_are_found_nowhere_on_disk(kept: Kept) -> None:
    """Neither said, over two sentences, nor pressed, nor set, nor given as a reason: in no file of any kind."""
    assert kept.holding(*PLANTED) == {}
    kinds = {path.suffix for path in kept.gateway.folder.rglob("*") if path.is_file()}
    assert {".jsonl", ".vtt", ".txt", ".json", ".flac", ".db", ".db-wal", ".events"} <= kinds, "all was searched"


async def test_events_that_wait_are_blackened(kept: Kept) -> None:
    """The receiver took none, so all of them lie in the spool; keys are told as ``*``."""
    (waiting,) = (kept.gateway.folder / "spool" / "events" / "crm").glob("*.events")
    content = waiting.read_text()
    assert content.count('"type":"dtmf"') == len(NUMBERS) * (len(CARD) + 1)
    assert content.count('"key":"*"') == content.count('"type":"dtmf"')
    assert "[card_number]" in content


async def test_nothing_said_is_logged(kept: Kept) -> None:
    """Speech is in transcripts, and in no log at level info; callers' numbers are not where ``phone`` is redacted."""
    said = kept.holding("Pelicans", "elicans do not")
    assert said
    assert not {"log", "quiet"} & set(said)
    numbers = kept.holding(*NUMBERS)
    assert numbers, "numbers are kept in records, where they are needed"
    assert not {"log", "quiet"} & set(numbers)


async def test_what_is_due_is_purged(kept: Kept) -> None:
    """``audio_days`` and ``text_days`` of 0 leave the record alone, ``record_days`` of 0 leaves nothing at all."""
    report = await _calls(kept, "purge", "--expired")
    assert "deleted 1 records, 2 recordings, 8 files of words" in report
    short, nothing = kept.calls[SHORT].record, kept.calls[NOTHING].record
    for name in ("recording", "words", "transcript", "vtt", "text"):
        assert not kept.gateway.folder.joinpath(short[name]).exists(), name
    left = await kept.gateway.get(f"/v1/records/{short['id']}")
    assert (left["recording"], left["transcript"], left["caller"]) == (None, None, SHORT)
    assert await kept.gateway.get(f"/v1/records/{nothing['id']}") is None
    assert kept.holding(NOTHING, nothing["sip_call_id"], nothing["id"], but=("log",)) == {}
    assert kept.holding(short["id"] + '","number":0', but=("log",)) == {}, "events that waited went with the words"


async def test_one_caller_is_deleted_by_the_command(kept: Kept) -> None:
    """``denwa calls purge --caller`` deletes one caller's data, while the gateway runs; the others' stays."""
    report = await _calls(kept, "purge", "--caller", ASKED)
    assert "deleted 1 records, 1 recordings, 4 files of words" in report
    assert kept.holding(ASKED) == {}
    assert kept.holding(kept.calls[ASKED].record["id"], but=("log",)) == {}
    assert kept.holding(PLAIN)


async def test_one_caller_is_deleted_by_the_api(kept: Kept) -> None:
    """``DELETE /v1/callers/NUMBER`` does so too, with what is kept of the call in other places."""
    status, purged = await kept.gateway.delete(f"/v1/callers/{PLAIN}")
    assert (status, purged["records"], purged["complete"]) == (200, 1, True)
    assert kept.holding(PLAIN) == {}
    assert kept.holding(kept.calls[PLAIN].record["id"], but=("log",)) == {}
    assert kept.holding("Pelicans") == {}


async def _calls(kept: Kept, *arguments: str) -> str:
    """``denwa calls …``, which must leave with 0; what it wrote."""
    command = (
        sys.executable,
        "-m",
        "agent.cli",
        "calls",
        *arguments,
        "--config",
        str(kept.gateway.folder / "denwa.yaml"),
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT, cwd=ROOT)
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()
