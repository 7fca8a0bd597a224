"""The gateway's end of a conversation with a model. Runs on the gateway's event loop.

A frame takes the short way: ``send_audio`` writes to the socket, ``on_frame`` is called as its bytes arrive; no queue
and no task lies between.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, cast

from pydantic import SecretStr
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame as WebSocketFrame
from websockets.frames import Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from config.audio import FRAME_BYTES
from model_runtime.engine.model import Samples
from model_runtime.errors import ModelLost, NoFreeSlot, ProtocolError, RemoteModelError
from model_runtime.worker.auth import TOKEN_REFUSED, bearer
from model_runtime.worker.health import WorkerHealth, probe
from model_runtime.worker.protocol import (
    MAX_MESSAGE_BYTES,
    SESSION_PATH,
    Audio,
    Close,
    Drain,
    Error,
    Force,
    Frame,
    Open,
    Ready,
    decode_from_worker,
    encode,
)

__all__ = ["ModelSession", "WorkerHealth", "open_session", "probe"]

_MAX_UNSENT: Final = 2 * FRAME_BYTES
"""More than two frames that the socket does not take are latency; newer ones are dropped until it does."""
_CLOSE_WITHIN_S: Final = 1.0
_WATCH_EVERY_S: Final = 1.0


class ModelSession(asyncio.Protocol):
    """One conversation with a model worker; made by ``open_session``."""

    def __init__(
        self,
        url: str,
        request: Open,
        on_frame: Callable[[Frame], None],
        *,
        on_drain: Callable[[], None] | None = None,
        lost_after_s: float = 5.0,
        token: SecretStr | None = None,
    ) -> None:
        self._url = url
        self._request = request
        self._on_frame = on_frame
        self._on_drain = on_drain
        self._lost_after_s = lost_after_s
        self._token = token
        self._socket = ClientProtocol(parse_uri(url + SESSION_PATH), max_size=MAX_MESSAGE_BYTES)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self._error: RemoteModelError | None = None
        self._unanswered_since: float | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.ready: Ready | None = None
        """What the worker said when it gave us the slot."""
        self.draining = False
        """Whether the worker has asked to move."""
        self.frames_dropped = 0
        """Frames not sent, because the socket did not take them in time."""

    def send_audio(self, frame: Samples, captured_at: float) -> None:
        """Send 80 ms of the caller, ``int16 [1920]``; never blocks, and drops (and counts) rather than queue.

        ``captured_at`` is on the caller's own clock, s; it comes back with the frame of the step that heard this.
        """
        transport = self._transport
        if transport is None or self._closing or self._socket.state is not State.OPEN:
            self.frames_dropped += 1
            return
        if transport.get_write_buffer_size() > _MAX_UNSENT:
            self.frames_dropped += 1
            return
        if self._unanswered_since is None:
            self._unanswered_since = self._loop.time()
        self._socket.send_binary(encode(Audio(frame.tobytes(), captured_at)))
        self._flush()

    def force(self, text: str) -> None:
        """Let the model say ``text``, word for word, soon, and no longer wait; nothing where the worker is gone."""
        if self._transport is not None and not self._closing and self._socket.state is State.OPEN:
            self._socket.send_binary(encode(Force(text)))
            self._flush()

    def close(self) -> None:
        """Ask the worker to end the conversation; idempotent, returns at once."""
        if self._closing:
            return
        self._closing = True
        if self._transport is None or self._closed.done():
            return
        if self._socket.state is State.OPEN:
            self._socket.send_binary(encode(Close()))
            self._flush()
            self._rewatch(_CLOSE_WITHIN_S, self._transport.abort)
        else:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the conversation is over; raises ``ModelLost`` or ``ProtocolError`` unless we closed it."""
        await asyncio.shield(self._closed)
        if self._error is not None:
            raise self._error

    async def wait_ready(self) -> None:
        """Wait until the worker has a slot for us; raises ``NoFreeSlot``, ``ModelLost`` or ``ProtocolError``."""
        await asyncio.shield(self._opened)
        if self._error is not None:
            raise self._error

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the WebSocket handshake (RFC 6455 section 4.1); asyncio and uvloop have set TCP_NODELAY."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        request = self._socket.connect()
        if self._token is not None:
            request.headers["Authorization"] = bearer(self._token)
        self._socket.send_request(request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take apart what came and hand it on, in the same call."""
        self._socket.receive_data(data)
        for event in self._socket.events_received():
            if isinstance(event, Response):
                self._on_handshake()
            elif isinstance(event, WebSocketFrame):
                self._on_websocket_frame(event)
        if self._socket.parser_exc is not None:
            self._fail(ProtocolError(f"{self._url}: {self._socket.parser_exc}"))
        self._flush()
        if self._socket.state in (State.CLOSING, State.CLOSED) and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note how it ended."""
        self._rewatch(None)
        if not self._closing and self._error is None:
            self._error = ModelLost(f"{self._url}: connection lost" + (f": {exc}" if exc else ""))
        for future in (self._opened, self._closed):
            if not future.done():
                future.set_result(None)

    def _on_handshake(self) -> None:
        error = self._socket.handshake_exc
        if isinstance(error, InvalidStatus) and error.response.status_code == 401:
            self._fail(ProtocolError(f"{self._url}: {TOKEN_REFUSED}"))
        elif error is not None:
            self._fail(ProtocolError(f"{self._url}: no worker: {error}"))
        elif self._socket.state is State.OPEN:  # a refusal may have come in the same breath
            self._socket.send_binary(encode(self._request))

    def _on_websocket_frame(self, frame: WebSocketFrame) -> None:
        if frame.opcode is Opcode.BINARY and frame.fin:
            try:
                self._on_message(bytes(frame.data))
            except ProtocolError as error:
                self._fail(error)
        elif frame.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
            self._fail(ProtocolError("a worker sends whole binary messages"))

    def _on_message(self, data: bytes) -> None:
        match decode_from_worker(data):
            case Frame() as frame if self.ready is not None:
                self._unanswered_since = None
                if not self._closing:
                    self._on_frame(frame)
            case Ready() as ready if self.ready is None:
                self.ready = ready
                self._opened.set_result(None)
                self._rewatch(_WATCH_EVERY_S, self._look_for_answers)
            case Error() as error:
                self._fail(_as_exception(error))
            case Drain() if self.ready is None:
                self._fail(NoFreeSlot(f"{self._url}: the worker is draining"))
            case Drain():
                self.draining = True
                if self._on_drain is not None:
                    self._on_drain()
            case message:
                raise ProtocolError(f"{type(message).__name__.lower()} is not due here")

    def _look_for_answers(self) -> None:
        """Audio that goes unanswered means a worker that hangs, or a network that is gone without a word."""
        since = self._unanswered_since
        if since is not None and self._loop.time() - since > self._lost_after_s:
            self._fail(ModelLost(f"{self._url}: no answer for {self._lost_after_s:g} s"))
            return
        self._rewatch(_WATCH_EVERY_S, self._look_for_answers)

    def _rewatch(self, delay_s: float | None, callback: Callable[[], None] | None = None) -> None:
        """Replace the one timer there is."""
        if self._watch is not None:
            self._watch.cancel()
        self._watch = None if delay_s is None or callback is None else self._loop.call_later(delay_s, callback)

    def _fail(self, error: RemoteModelError) -> None:
        """End the session for a fault of the other side; the first one counts."""
        if self._error is None and not self._closing:
            self._error = error
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._socket.data_to_send()))


@asynccontextmanager
async def open_session(
    url: str,
    request: Open,
    *,
    on_frame: Callable[[Frame], None],
    on_drain: Callable[[], None] | None = None,
    timeout_s: float = 3.0,
    lost_after_s: float = 5.0,
    token: SecretStr | None = None,
) -> AsyncIterator[ModelSession]:
    """A conversation with the worker at ``ws://host:port``; enters when it has a slot, and frees it at the end.

    ``on_frame`` is called on the loop for every step. Raises ``NoFreeSlot``, ``ModelLost`` (also where none answers
    within ``timeout_s``) or ``ProtocolError``. ``lost_after_s`` is how long sent audio may go unanswered, ``token``
    what the worker asks for, if it does.
    """
    session = ModelSession(url, request, on_frame, on_drain=on_drain, lost_after_s=lost_after_s, token=token)
    uri = parse_uri(url)
    try:
        try:
            async with asyncio.timeout(timeout_s):
                await session._loop.create_connection(lambda: session, uri.host, uri.port, ssl=uri.secure or None)
                await session.wait_ready()
        except TimeoutError:
            raise ModelLost(f"{url}: no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise ModelLost(f"{url}: {error}") from None
        yield session
    finally:
        session.close()
        if session._transport is not None:
            await asyncio.shield(session._closed)


def _as_exception(error: Error) -> RemoteModelError:
    match error.code:
        case "no_free_slot":
            return NoFreeSlot(error.message)
        case "protocol":
            return ProtocolError(error.message)
        case _:
            return ModelLost(f"{error.code}: {error.message}")
