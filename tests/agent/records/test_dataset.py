"""agent/records/dataset.py."""

import json
from pathlib import Path

import numpy as np
from structlog.testing import capture_logs

from agent.records.dataset import index_recordings
from agent.records.recorder import Recorder
from agent.records.transcript import Transcript
from config.audio import FRAME_SAMPLES
from tests.agent.records.spoken_call import ABOUT, SpokenCall


async def test_a_folder_of_recordings_becomes_a_data_set(tmp_path: Path) -> None:
    """Recordings that have their words are listed with their durations; what cannot be read is left out and said."""
    block = np.ones(FRAME_SAMPLES, np.int16)
    async with Recorder() as recorder:
        for name, blocks in (("b.flac", 25), ("day/a.wav", 50), ("no-words.flac", 5)):
            call = SpokenCall()
            path = tmp_path / name
            recording = recorder.open(path, "wav" if path.suffix == ".wav" else "flac")
            for _ in range(blocks):
                recording.write(block, block)
            recording.close()
            assert await recording.wait_closed()
            words = None if name.startswith("no") else path
            async with Transcript(
                tmp_path / "text" / f"{name[0]}.jsonl", ABOUT, call.timeline, recording=words
            ) as transcript:
                call.say(transcript, [" hi"], pause=10)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "broken.json").write_text("{}")
    with capture_logs() as logs:
        assert index_recordings(tmp_path) == 2
    assert [line["event"] for line in logs] == ["recording.unreadable"]
    assert [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()] == [
        {"path": "b.flac", "duration": 2.0},
        {"path": "day/a.wav", "duration": 4.0},
    ]
