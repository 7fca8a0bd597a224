"""The channel between the gateway and a line worker: one SOCK_SEQPACKET socket, a message per packet.

Audio is a 20-byte header, 8 bytes for each run of what was said, and the samples; everything else is a msgpack map
with its ``type``. ``ChannelSocket`` serves both ends and never blocks: audio that finds the socket full is dropped and
counted, control messages wait in order. ``Channel`` puts the gateway's end on its event loop; the worker polls its end
itself.
"""

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, Final, cast

import msgpack

from telephony.call import Said
from telephony.errors import ChannelError
from telephony.sip.line import messages
from telephony.sip.line.messages import Audio, Message

_AUDIO: Final = 1
_CONTROL: Final = 2
_HEADER: Final = struct.Struct("<BBxxIId")  # kind, runs said, call, number, at
_SAID: Final = struct.Struct("<HIH")  # offset, position, count
_MAX_SAID: Final = 255
_COUNTER: Final = 2**32
_MAX_PACKET: Final = 65_536
_BUFFER: Final = 1 << 20  # bytes asked of the kernel for each direction
_CONTROLS: Final[dict[str, type]] = {
    name.lower(): cls
    for name, cls in vars(messages).items()
    if isinstance(cls, type) and cls is not Audio and cls.__module__ == messages.__name__
}


def encode(message: Message) -> bytes:
    """Return the packet that carries ``message``."""
    if isinstance(message, Audio):
        said = message.said[:_MAX_SAID]
        header = _HEADER.pack(_AUDIO, len(said), message.call, message.number % _COUNTER, message.at)
        return b"".join([header, *map(_pack_said, said), message.pcm])
    body = {"type": type(message).__name__.lower(), **asdict(message)}
    return bytes([_CONTROL]) + msgpack.packb(body)


def decode(packet: bytes) -> Message:
    """Return the message in ``packet``; raises ``ChannelError`` for anything that is none."""
    if not packet:
        raise ChannelError("empty packet")
    if packet[0] == _AUDIO:
        return _audio(packet)
    if packet[0] != _CONTROL:
        raise ChannelError(f"unknown kind {packet[0]}")
    try:
        body = msgpack.unpackb(packet[1:])
    except (ValueError, msgpack.UnpackException) as error:
        raise ChannelError(f"not msgpack: {error}") from error
    return _control(body)


def _audio(packet: bytes) -> Audio:
    if len(packet) < _HEADER.size or len(packet) % 2:
        raise ChannelError(f"audio packet of {len(packet)} bytes")
    _, runs, call, number, at = _HEADER.unpack_from(packet)
    begin = _HEADER.size + runs * _SAID.size
    pcm = packet[begin:]
    if not runs:
        return Audio(call, at, pcm, number)
    said = tuple(Said(*fields) for fields in _SAID.iter_unpack(packet[_HEADER.size : begin])) if pcm else ()
    end = 0
    for run in said:
        if run.offset < end or not run.count:
            raise ChannelError(f"audio packet with {said}")
        end = run.offset + run.count
    if not 0 < end <= len(pcm) // 2:
        raise ChannelError(f"audio packet of {len(packet)} bytes with {runs} runs")
    return Audio(call, at, pcm, number, said)


def _pack_said(said: Said) -> bytes:
    return _SAID.pack(said.offset, said.position % _COUNTER, said.count)


def _control(body: Any) -> Message:
    if not isinstance(body, dict) or not isinstance(body.get("type"), str):
        raise ChannelError("control message without a type")
    cls = _CONTROLS.get(body.pop("type"))
    if cls is None:
        raise ChannelError("unknown control message")
    wanted = {field.name: field.type for field in fields(cls)}
    if body.keys() != wanted.keys():
        raise ChannelError(f"{cls.__name__}: keys {sorted(map(str, body))}")
    for name, kind in wanted.items():
        if not _is(body[name], kind):
            raise ChannelError(f"{cls.__name__}.{name}: {body[name]!r}")
    return cast(Message, cls(**body))


def _is(value: object, kind: Any) -> bool:
    if kind == list[str]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new channel, non-blocking."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    return pair


class ChannelSocket:
    """One end of a channel. ``send`` may be called from any thread; nothing here blocks."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self.closed = False
        """The other end is gone."""
        self.dropped = 0
        """Audio messages that found the socket full."""

    def fileno(self) -> int:
        """Return the socket's file descriptor, for polling."""
        return self._sock.fileno()

    @property
    def backlog(self) -> int:
        """Control messages that wait for room in the socket; ``flush`` when it is writable."""
        return len(self._waiting)

    def send(self, message: Message) -> bool:
        """Send, or queue a control message; return False where audio was dropped or the other end is gone."""
        packet = encode(message)
        with self._lock:
            if not self._waiting and self._write(packet):
                return True
            if isinstance(message, Audio):
                self.dropped += 1
                return False
            self._waiting.append(packet)
            return not self.closed

    def flush(self) -> None:
        """Send the control messages that wait, as far as there is room."""
        with self._lock:
            while self._waiting and self._write(self._waiting[0]):
                self._waiting.popleft()

    def receive(self) -> list[Message]:
        """Return every message that has come; sets ``closed`` at the end. Raises ``ChannelError``."""
        received = []
        while not self.closed:
            try:
                packet = self._sock.recv(_MAX_PACKET)
            except BlockingIOError:
                break
            except OSError:
                packet = b""
            if packet:
                received.append(decode(packet))
            else:
                self.closed = True
        return received

    def close(self) -> None:
        """Close this end."""
        self.closed = True
        self._sock.close()

    def _write(self, packet: bytes) -> bool:
        if self.closed:
            return False
        try:
            self._sock.send(packet)
        except BlockingIOError:
            return False
        except OSError:  # the reader finds out in order, after what was sent before the end
            return False
        return True


class Channel:
    """The gateway's end of a channel, on the running event loop."""

    def __init__(
        self, sock: socket.socket, on_message: Callable[[Message], None], on_closed: Callable[[str], None]
    ) -> None:
        """``on_closed(why)`` is called once, when the other end is gone or speaks nonsense; not after ``close``.

        ``on_message`` may raise ``ChannelError`` for what it cannot take: nonsense as well.
        """
        self._socket = ChannelSocket(sock)
        self._on_message = on_message
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._writing = False
        self._loop.add_reader(self._socket.fileno(), self._read)

    @property
    def dropped(self) -> int:
        """Audio messages that found the socket full."""
        return self._socket.dropped

    def send(self, message: Message) -> None:
        """Send without waiting; audio that finds no room is dropped."""
        if self._socket.closed:
            return
        self._socket.send(message)
        if self._socket.backlog and not self._writing:
            self._writing = True
            self._loop.add_writer(self._socket.fileno(), self._write)

    def close(self) -> None:
        """Leave the loop and close the socket; idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()

    def _read(self) -> None:
        why = "channel closed"
        try:
            for message in self._socket.receive():
                self._on_message(message)
        except ChannelError as error:
            why = str(error)
            self._socket.closed = True
        if self._socket.closed and self._socket.fileno() >= 0:
            self.close()
            self._on_closed(why)

    def _write(self) -> None:
        self._socket.flush()
        if not self._socket.backlog:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())
