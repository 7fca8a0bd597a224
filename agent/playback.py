"""A file played to a caller whom no model speaks with. Gateway's loop."""

import asyncio

from agent.sounds import Samples, whole_frames
from config.audio import FRAME_S
from telephony.call import Call, CallState


async def play(call: Call, sound: Samples) -> None:
    """Play ``int16 [n]`` at 24 kHz at its own pace; returns at its end, or the call's."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for frame in whole_frames(sound):
        if call.state is not CallState.CONFIRMED:
            return
        call.play(frame)
        due += FRAME_S
        await asyncio.sleep(max(0.0, due - loop.time()))
