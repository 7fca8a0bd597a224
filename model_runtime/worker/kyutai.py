"""Kyutai's protocol, so that the public Moshi clients can talk to a worker. Runs on the worker's event loop.

One WebSocket per conversation, ``/api/chat``. Every message is binary and begins with its kind: the server sends
HANDSHAKE once it is ready; both send AUDIO, the pages of one continuous Ogg/Opus stream (RFC 7845), 24 kHz, mono; the
server sends TEXT, and an ERROR before it closes for one. Other kinds are ignored, as the protocol wants it
(rust/protocol.md of kyutai-labs/moshi). The query string says how tokens are drawn and, in PersonaPlex's words, who the
model is to be; the handshake then comes when it is.
"""

import asyncio
import logging
import math
import secrets
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from model_runtime.engine.engine import Engine
from model_runtime.engine.model import AgentPrompt, Beginning, SamplingOptions
from model_runtime.engine.slot import Slot, SlotStep
from model_runtime.errors import ModelError, NoFreeSlot, ProtocolError
from model_runtime.worker.ogg_opus import OpusReader, OpusWriter
from model_runtime.worker.outbox import Outbox
from model_runtime.worker.protocol import MAX_MESSAGE_BYTES, Frame, Open, check_open
from model_runtime.worker.session import Patience

log = logging.getLogger(__name__)

CHAT_PATH: Final = "/api/chat"
HANDSHAKE: Final = b"\x00"
AUDIO: Final = b"\x01"
TEXT: Final = b"\x02"
ERROR: Final = b"\x05"

_FLUSH_WITHIN_S: Final = 1.0
_MAX_SEED: Final = 2**63 - 1
_MAX_TOP_K: Final = 1_000_000

_NORMAL: Final = 1000  # RFC 6455 section 7.4.1
_PROTOCOL_ERROR: Final = 1002
_POLICY: Final = 1008
_SERVER_ERROR: Final = 1011
_SERVICE_RESTART: Final = 1012
_TRY_AGAIN_LATER: Final = 1013


class _End(NamedTuple):
    """How a conversation ended: a close code, and what the client is told, if anything."""

    code: int
    message: str = ""


def read_query(query: Mapping[str, str]) -> Open:
    """The conversation that a client asks for; what is not said is Denwa's default, and unknown names are ignored.

    Raises ``ProtocolError`` that names what cannot be.
    """
    default = SamplingOptions()
    sampling = SamplingOptions(
        audio_temperature=_temperature(query, "audio_temperature", default.audio_temperature),
        audio_top_k=_top_k(query, "audio_topk", default.audio_top_k),
        text_temperature=_temperature(query, "text_temperature", default.text_temperature),
        text_top_k=_top_k(query, "text_topk", default.text_top_k),
    )
    seeds = [_whole(query, name, 2**64) for name in ("text_seed", "audio_seed", "seed") if query.get(name)]
    # Kyutai seeds text and audio apart; here a conversation has one generator.
    seed = sum(seeds) % _MAX_SEED if seeds else secrets.randbits(31)
    voice = query.get("voice_prompt", "").removesuffix(".pt").removesuffix(".wav")
    return check_open(Open(seed, sampling, AgentPrompt(query.get("text_prompt", ""), voice)))


def _temperature(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name)
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 100.0:
        raise ProtocolError(f"{name}: expected a number from 0 to 100")
    return value


def _top_k(query: Mapping[str, str], name: str, default: int) -> int:
    """0 is no limit, as in the reference."""
    return (_whole(query, name, _MAX_TOP_K) or _MAX_TOP_K) if query.get(name) else default


def _whole(query: Mapping[str, str], name: str, high: int) -> int:
    text = query[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= high):
        raise ProtocolError(f"{name}: expected a whole number from 0 to {high}")
    return int(text)


class KyutaiSession:
    """One client's conversation. ``run`` is its life; the engine calls ``on_step`` and ``on_failure``."""

    def __init__(self, websocket: WebSocket, engine: Engine, *, patience: Patience) -> None:
        self._websocket = websocket
        self._engine = engine
        self._patience = patience
        self._outbox = Outbox()
        self._begun = asyncio.Event()
        self._ended: asyncio.Future[_End] = asyncio.get_running_loop().create_future()

    @property
    def audio_dropped(self) -> int:
        """Frames whose audio became too old because the client reads too slowly."""
        return self._outbox.audio_dropped

    async def run(self) -> None:
        """Converse until either side ends; the slot is free before the client learns of the end."""
        try:
            slot = self._open(read_query(self._websocket.query_params))
        except ProtocolError as error:
            return await self._close(_End(_POLICY, str(error)))
        except NoFreeSlot as error:
            return await self._close(_End(_TRY_AGAIN_LATER, str(error)))
        try:
            end = await self._converse(slot)
        finally:
            self._engine.release(slot)
        return await self._close(end)

    async def refuse(self) -> None:
        """Send the client elsewhere: this worker drains."""
        await self._close(_End(_SERVICE_RESTART, "this worker is about to stop"))

    def drain(self) -> None:
        """Nothing: the protocol has no word for it, so the conversation goes on for as long as it may."""

    def on_step(self, step: SlotStep) -> None:
        """Pass on what a step gave."""
        frame = Frame(step.audio.tobytes(), step.text, step.number, (), step.heard.captured_at, 0.0, 0.0)
        if not self._outbox.put(frame):
            self._end(_End(_POLICY, "the client does not read what it is sent"))

    def on_failure(self, error: Exception) -> None:
        """End the conversation: the model failed, or cannot be who it is asked to be."""
        why = str(error) if isinstance(error, ModelError) else f"a step failed: {type(error).__name__}"
        self._end(_End(_SERVER_ERROR, why))

    def _open(self, request: Open) -> Slot:
        """Take a slot; raises ``NoFreeSlot``."""
        beginning = None if request.prompt == AgentPrompt() else Beginning(request.prompt)
        if beginning is None:
            self._begun.set()
        return self._engine.open(request.sampling, request.seed, self, beginning=beginning, on_begun=self._begun.set)

    async def _converse(self, slot: Slot) -> _End:
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(self._read(slot), name=f"read chat {slot.id}")
            writer = tasks.create_task(self._write(), name=f"write chat {slot.id}")
            log.info("chat.opened id=%d row=%d", slot.id, slot.row)
            end = await self._ended
            self._engine.release(slot)
            reader.cancel()
            writer.cancel()
        log.info(
            "chat.closed id=%d steps=%d dropped=%d why=%s", slot.id, slot.steps, slot.dropped, end.message or "hung up"
        )
        return end

    async def _read(self, slot: Slot) -> None:
        """Feed the slot with what the client says, in frames, until it ends."""
        loop = asyncio.get_running_loop()
        opus = OpusReader(loop.time())
        try:
            async with asyncio.timeout(self._patience.audio_s) as silence:
                while True:
                    message = await self._receive()
                    if len(message) > MAX_MESSAGE_BYTES:
                        raise ProtocolError(
                            f"a message of {len(message)} bytes; at most {MAX_MESSAGE_BYTES} are allowed"
                        )
                    if message[:1] != AUDIO:
                        continue
                    now = loop.time()
                    for frame in opus.append(message[1:], now):
                        self._engine.push(slot, frame, now)
                        silence.reschedule(now + self._patience.audio_s)
        except ProtocolError as error:
            self._end(_End(_PROTOCOL_ERROR, str(error)))
        except TimeoutError:
            self._end(_End(_POLICY, f"no audio for {self._patience.audio_s:g} s"))
        except WebSocketDisconnect:
            self._end(_End(_NORMAL))

    async def _write(self) -> None:
        """Send the handshake and then what the outbox holds, in order."""
        opus = OpusWriter()
        try:
            await self._begun.wait()
            await self._websocket.send_bytes(HANDSHAKE)
            while True:
                frame = await self._outbox.get()
                assert isinstance(frame, Frame)
                if frame.pcm:
                    await self._websocket.send_bytes(AUDIO + opus.append(np.frombuffer(frame.pcm, np.int16)))
                if frame.text:
                    await self._websocket.send_bytes(TEXT + frame.text.encode())
        except (WebSocketDisconnect, RuntimeError):  # uvicorn's for a connection that it has closed by itself
            self._end(_End(_NORMAL))

    async def _receive(self) -> bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        return message.get("bytes") or b""

    def _end(self, end: _End) -> None:
        """Let ``_converse`` come to its end; the first reason counts."""
        if not self._ended.done():
            self._ended.set_result(end)

    async def _close(self, end: _End) -> None:
        """Close the connection, with what went wrong as last message, if the client still takes it."""
        try:
            async with asyncio.timeout(_FLUSH_WITHIN_S):
                if end.message:
                    await self._websocket.send_bytes(ERROR + end.message.encode())
                await self._websocket.close(end.code)
        except (WebSocketDisconnect, TimeoutError, RuntimeError):
            log.debug("chat.client_gone")
