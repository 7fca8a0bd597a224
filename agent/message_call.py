"""A call that no model can take, answered with a recorded message. Gateway's loop."""

import asyncio

from agent.call_log import CallLog
from agent.generation import Persona
from agent.playback import play
from telephony.call import Call
from telephony.end_cause import EndCause


async def tell(call: Call, persona: Persona, kept: CallLog) -> EndCause:
    """Answer, play the agent's ``fallback.message_wav``, hang up; returns why the call ended."""
    async with asyncio.TaskGroup() as tasks:
        message = tasks.create_task(_tell(call, persona, kept), name=f"message {call.id}")
        cause = await call.wait_closed()
        message.cancel()
    return cause


async def _tell(call: Call, persona: Persona, kept: CallLog) -> None:
    kept.answering()
    call.answer()
    if await call.wait_confirmed():
        kept.confirmed(call.codec)
        await play(call, persona.message)
        call.hangup(EndCause.hung_up("no free slot, message played"))
