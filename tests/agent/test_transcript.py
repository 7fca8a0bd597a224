"""agent/transcript.py."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from agent.transcript import Transcript


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pieces_are_on_disk_before_the_call_ends(tmp_path: Path) -> None:
    """Each piece can be read the moment it was added."""
    with Transcript(tmp_path / "new" / "call.jsonl") as transcript:
        transcript.add(0.08, "agent", " Good")
        assert _lines(transcript.path) == [{"t": 0.08, "speaker": "agent", "text": " Good"}]
        transcript.add(0.16, "agent", " día")
        assert "".join(str(line["text"]) for line in _lines(transcript.path)) == " Good día"


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    """A transcript survives SIGKILL of its writer, whole lines only."""
    path = tmp_path / "call.jsonl"
    script = (
        "import os, signal, sys; from pathlib import Path; from agent.transcript import Transcript\n"
        "with Transcript(Path(sys.argv[1])) as t:\n"
        "    [t.add(i * 0.08, 'agent', f' word{i}') for i in range(50)]\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [line["text"] for line in _lines(path)] == [f" word{i}" for i in range(50)]


def test_a_broken_disk_costs_the_transcript_not_the_call(tmp_path: Path) -> None:
    """Neither an impossible path nor a full disk raises."""
    (tmp_path / "file").write_text("")
    with Transcript(tmp_path / "file" / "call.jsonl") as transcript:
        transcript.add(0, "agent", "lost")
    if os.path.exists("/dev/full"):
        with Transcript(Path("/dev/full")) as transcript:
            transcript.add(0, "agent", "lost")
            transcript.add(1, "agent", "lost too")
