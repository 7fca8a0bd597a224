"""The worker's end of one conversation: from the WebSocket to a slot of the engine, and back. On the event loop."""

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from config.audio import FRAME_S, FRAME_SAMPLES
from model_runtime.engine.engine import Engine
from model_runtime.engine.model import AgentPrompt, Beginning, Past
from model_runtime.engine.slot import Slot, SlotStep
from model_runtime.errors import ModelError, NoFreeSlot, ProtocolError
from model_runtime.worker.dump import SessionDump
from model_runtime.worker.outbox import Outbox
from model_runtime.worker.protocol import (
    TOKENS,
    Audio,
    ClientMessage,
    Drain,
    Error,
    ErrorCode,
    Force,
    Frame,
    Open,
    Ready,
    WorkerMessage,
    decode_from_client,
    encode,
)

log = logging.getLogger(__name__)

_FLUSH_WITHIN_S: Final = 1.0
"""How long the last messages may take to get away, once the conversation is over."""

_CLOSE_CODE: Final[dict[ErrorCode, int]] = {  # RFC 6455 section 7.4.1 and its IANA registry
    "protocol": 1002,
    "idle": 1008,
    "too_slow": 1008,
    "too_fast": 1008,
    "model": 1011,
    "no_free_slot": 1013,
}
_MAX_ERROR_TEXT: Final = 1_000  # characters
_MOST_AHEAD: Final = 500
"""Frames by which a client may run ahead of the clock: 40 s, more than any network holds back and lets go at once."""
_SERVICE_RESTART: Final = 1012
_NORMAL: Final = 1000


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may keep silent."""

    open_s: float = 5.0
    """From the connection to ``open``."""
    audio_s: float = 30.0
    """From one ``audio`` to the next."""


class WorkerSession:
    """One client's conversation. ``run`` is its life; the engine calls the rest."""

    def __init__(
        self, websocket: WebSocket, engine: Engine, model: str, *, patience: Patience, dump_dir: Path | None
    ) -> None:
        self._websocket = websocket
        self._engine = engine
        self._model = model
        self._patience = patience
        self._dump_dir = dump_dir
        self._outbox = Outbox()
        self._dump: SessionDump | None = None
        self._slot: Slot | None = None
        self._ended: asyncio.Future[Error | None] = asyncio.get_running_loop().create_future()

    @property
    def audio_dropped(self) -> int:
        """Frames whose audio became too old because the client reads too slowly."""
        return self._outbox.audio_dropped

    async def run(self) -> None:
        """Converse until either side ends; the slot is free before the client learns of the end."""
        try:
            request = await self._wait_open()
            beginning = _beginning(request)
            slot = self._engine.open(request.sampling, request.seed, self, beginning=beginning, on_begun=self._on_begun)
        except ProtocolError as error:
            return await self._close(Error("protocol", str(error)))
        except TimeoutError:
            return await self._close(Error("idle", f"no open within {self._patience.open_s:g} s"))
        except NoFreeSlot as error:
            return await self._close(Error("no_free_slot", str(error)))
        except WebSocketDisconnect:
            return None
        try:
            fault = await self._converse(slot, request)
        finally:
            self._engine.release(slot)
            if self._dump is not None:
                await asyncio.to_thread(self._dump.write)
        return await self._close(fault)

    async def refuse(self) -> None:
        """Send the client elsewhere: this worker drains."""
        await self._send_last(Drain(), _SERVICE_RESTART)

    def drain(self) -> None:
        """Ask the client to move."""
        self._outbox.put(Drain())

    def on_step(self, step: SlotStep) -> None:
        """Pass on what a step gave."""
        if self._dump is not None:
            self._dump.add(step)
        frame = Frame(
            pcm=step.audio.tobytes(),
            text=step.text,
            step=step.number,
            tokens=tuple(step.tokens.tolist()),
            captured_at=step.heard.captured_at,
            wait_ms=(step.started_at - step.heard.received_at) * 1000,
            step_ms=(step.done_at - step.started_at) * 1000,
            scripted=step.scripted,
            caller_text=step.caller_text,
        )
        if not self._outbox.put(frame):
            self._end(Error("too_slow", "the client does not read what it is sent"))

    def on_failure(self, error: Exception) -> None:
        """End the conversation: the model failed, or could not begin as it was asked to."""
        match error:
            case ProtocolError():
                self._end(Error("protocol", str(error)))
            case ModelError():
                self._end(Error("model", str(error)[:_MAX_ERROR_TEXT]))
            case _:
                self._end(Error("model", f"a step failed: {type(error).__name__}"))

    def _on_begun(self) -> None:
        """Tell the client that audio may come."""
        assert self._slot is not None
        engine = self._engine
        self._outbox.put(Ready(self._slot.row, engine.slots, self._model, engine.caller_text_delay_s))

    async def _converse(self, slot: Slot, request: Open) -> Error | None:
        """Read and write until the conversation ends; return what went wrong, if anything did."""
        if self._dump_dir is not None:
            self._dump = SessionDump(self._dump_dir / f"{self._model}-{os.getpid()}-{slot.id:06d}.npz", request)
        self._slot = slot
        if slot.beginning is None:
            self._on_begun()
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(self._read(slot), name=f"read session {slot.id}")
            writer = tasks.create_task(self._write(), name=f"write session {slot.id}")
            log.info("session.opened id=%d row=%d step=%d", slot.id, slot.row, slot.steps)
            error = await self._ended
            self._engine.release(slot)
            reader.cancel()
            writer.cancel()
        log.info("session.closed id=%d steps=%d dropped=%d why=%s", slot.id, slot.steps, slot.dropped, error)
        return error

    async def _read(self, slot: Slot) -> None:
        """Feed the slot until the client ends."""
        loop = asyncio.get_running_loop()
        began, frames = loop.time(), 0
        try:
            async with asyncio.timeout(self._patience.audio_s) as silence:
                while isinstance(message := await self._receive(), Audio | Force):
                    if isinstance(message, Force):
                        self._engine.force(slot, message.text)
                        continue
                    self._engine.push(slot, np.frombuffer(message.pcm, np.int16), message.captured_at)
                    silence.reschedule(loop.time() + self._patience.audio_s)
                    frames += 1
                    if frames > _MOST_AHEAD + (loop.time() - began) / FRAME_S:
                        return self._end(Error("too_fast", "audio comes faster than it is spoken"))
            self._end(
                Error("protocol", "open: the conversation is open already") if isinstance(message, Open) else None
            )
        except ProtocolError as error:
            self._end(Error("protocol", str(error)))
        except TimeoutError:
            self._end(Error("idle", f"no audio for {self._patience.audio_s:g} s"))
        except WebSocketDisconnect:
            self._end(None)

    async def _write(self) -> None:
        """Send what the outbox holds, in order."""
        try:
            while True:
                await self._websocket.send_bytes(encode(await self._outbox.get()))
        except (WebSocketDisconnect, RuntimeError):  # uvicorn's for a connection that it has closed by itself
            self._end(None)

    async def _wait_open(self) -> Open:
        async with asyncio.timeout(self._patience.open_s):
            message = await self._receive()
        if not isinstance(message, Open):
            raise ProtocolError("the first message is open")
        return message

    async def _receive(self) -> ClientMessage:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data = message.get("bytes")
        if data is None:
            raise ProtocolError("messages are binary")
        return decode_from_client(data)

    def _end(self, error: Error | None) -> None:
        """Let ``_converse`` come to its end; the first reason counts."""
        if not self._ended.done():
            self._ended.set_result(error)

    async def _close(self, error: Error | None) -> None:
        await self._send_last(error, _NORMAL if error is None else _CLOSE_CODE[error.code])

    async def _send_last(self, message: WorkerMessage | None, code: int) -> None:
        """Close the connection after a last message, if the client still takes it."""
        try:
            async with asyncio.timeout(_FLUSH_WITHIN_S):
                if message is not None:
                    await self._websocket.send_bytes(encode(message))
                await self._websocket.close(code)
        except (WebSocketDisconnect, TimeoutError, RuntimeError):
            log.debug("session.client_gone")


def _beginning(request: Open) -> Beginning | None:
    """What an ``open`` asks for beyond a fresh slot, if it does."""
    resume, past = request.resume, None
    if resume is not None:
        tokens = np.frombuffer(resume.tokens, "<i4").reshape(-1, TOKENS)
        past = Past(resume.step, tokens, np.frombuffer(resume.heard, np.int16).reshape(-1, FRAME_SAMPLES))
    if past is None and request.prompt == AgentPrompt():
        return None
    return Beginning(request.prompt, past)
