"""Denwa as it comes: whoever calls any number reaches the front desk, through the model that comes with it."""

from pathlib import Path

import numpy as np

from tests.peers import audio, rtp
from tests.peers.called import Line, until
from tests.peers.caller import call
from tests.peers.denwa import denwa


async def test_the_front_desk_answers_by_default(tmp_path: Path) -> None:
    """The shipped configuration serves the trained model; it is heard, and no text of its file is left unsaid."""
    models = {"tiny": {"kind": "echo"}}  # other agents', which nobody calls here
    async with denwa(tmp_path, shipped=True, models=models) as gateway:
        line = Line(gateway, "100")
        async with call(gateway.server, "100", np.zeros(8_000, np.int16)) as caller:
            await until(lambda: audio.level(rtp.samples(caller.heard)) > -45, 20, "the agent is heard")
        record = (await line.over()).record
        assert (record["agent"], record["model"]) == ("front-desk", "front-desk")
        assert "text_not_said" not in gateway.log_path.read_text()
