"""``denwa eval`` calls a running gateway for real."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from tests.agent.evaluation.scripted import ANSWER
from tests.peers.denwa import denwa, start
from tests.peers.processes import end, free_port
from tests.peers.workers import until_it_answers

pytestmark = pytest.mark.peer("espeak-ng")

QUESTION = {"text": "are you open", "reply": ANSWER}
BYE = {"name": "bye", "when": {"dtmf": "7"}, "do": [{"hang_up": {}}]}
SUITE = {
    "name": "real",
    "dialogues": 2,
    "controls": ["muted"],
    "reply_within_s": 1.5,
    "steps": [
        {"wait": {}, "expect": {"text": "greeting"}},
        {"say": {**QUESTION, "after_s": 0.7}},
        {"interrupt": {**QUESTION, "after_s": 0.6}},
        {"dtmf": {"keys": "7", "after_s": 0.5}, "expect": {"hangs_up": True}},
    ],
    "require": [{"score": "intent", "least": 1}, {"score": "stopped", "control": "muted", "most": 0}],
}


@asynccontextmanager
async def _worker(log: Path) -> AsyncIterator[str]:
    """A model that greets, stops when it is interrupted, and has one answer to everything; gives its URL."""
    port = free_port()
    process = await start(log, sys.executable, "-m", "tests.agent.evaluation.scripted", str(port))
    try:
        url = f"ws://127.0.0.1:{port}"
        await until_it_answers(url, process, log.read_text)
        yield url
    finally:
        if process.returncode is None:
            process.kill()
        await end(process)


async def test_a_suite_is_held_by_real_calls(tmp_path: Path) -> None:
    """Greeting, answers, stop latency and the muted control are scored over SIP, four calls at once; keys arrive."""
    suite = tmp_path / "real.yaml"
    suite.write_text(yaml.safe_dump(SUITE))
    async with _worker(tmp_path / "worker.log") as url:
        models = {"scripted": {"kind": "moshi", "checkpoint": "random:tiny", "slots": 4, "workers": [url]}}
        agents = {"desk": {"model": "scripted", "actions": [BYE]}}
        async with denwa(tmp_path, models=models, agents=agents) as gateway:
            to = ("--to", f"sip:desk@127.0.0.1:{gateway.sip_port}", "--api", f"http://127.0.0.1:{gateway.http_port}")
            out = ("--out", str(tmp_path / "eval"), "--parallel", "4")
            log = tmp_path / "eval.log"
            process = await start(log, sys.executable, "-m", "agent.cli", "eval", str(suite), *to, *out)
            try:
                async with asyncio.timeout(90):
                    code = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                await end(process)
    results = json.loads((tmp_path / "eval" / "real" / "results.json").read_text())
    said = (tmp_path / "eval" / "real" / "dialogues.jsonl").read_text()
    assert results["faults"] == [], log.read_text()
    real, muted = (
        {name: score["value"] for name, score in results["scores"][each].items()} for each in ("real", "muted")
    )
    assert (real["greeting"], real["intent"], real["stopped"], real["intent_after_interruption"]) == (1, 1, 1, 1), said
    assert (real["expected"], real["early"]) == (1, 0), said
    assert 0.2 < real["gap_median_s"] < 1.5, said
    assert 0.05 < real["stop_median_s"] < 0.9, said
    assert muted["stopped"] == 0, said
    assert code == 0, log.read_text()
