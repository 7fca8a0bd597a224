"""A line worker process as the gateway sees it: spawned, watched, and its death noticed (gateway's loop)."""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final

import structlog

import telephony
from config.process import start_quietly
from config.schema import SipSettings
from telephony.errors import ChannelError, LineWorkerLost
from telephony.sip.invitation import Invitation
from telephony.sip.line.call import SipCall
from telephony.sip.line.channel import Channel, channel_pair
from telephony.sip.line.messages import (
    Audio,
    Dtmf,
    Hangup,
    Heartbeat,
    Incoming,
    Latched,
    Log,
    Media,
    Message,
    Open,
    Opened,
    Ready,
    Referred,
    Shutdown,
    State,
    Stats,
)

HEARTBEAT_LOST_S: Final = 1.0
START_S: Final = 10.0
_LOOK_S: Final = 0.25  # how often the heartbeat is looked for
_REAP_S: Final = 0.2  # a process whose channel is closed is all but gone
_NO_LINE: Final = 503
_ROOT: Final = Path(telephony.__file__).parents[1]


class WorkerState(Enum):
    """A line worker's life."""

    STARTING = "starting"
    UNRATED = "unrated"  # ready, but its bridge's rate is not chosen yet
    OPEN = "open"  # rated: takes calls
    LOST = "lost"


NEXT: Final = {
    WorkerState.STARTING: {WorkerState.UNRATED, WorkerState.LOST},
    WorkerState.UNRATED: {WorkerState.OPEN, WorkerState.LOST},
    WorkerState.OPEN: {WorkerState.LOST},
    WorkerState.LOST: set(),
}


class Line:
    """A place for one call on a worker, from ``LinePool.place`` until the call is over or it is released."""

    def __init__(self, invitation: Invitation, worker: "LineWorker") -> None:
        self.invitation = invitation
        self.call: SipCall | None = None
        """The call, once the worker has its INVITE."""
        self._worker = worker

    @property
    def sip_address(self) -> tuple[str, int]:
        """Where the INVITE is to be sent, over UDP."""
        return ("127.0.0.1", self._worker.sip_port)

    def release(self) -> None:
        """Say that no INVITE will come any more; idempotent. A call that runs keeps the line until it ends."""
        if self.call is None:
            self._worker.free(self)


class LineWorker:
    """One process with its lines. ``run`` is its life; what it holds is lost with it."""

    def __init__(
        self,
        settings: SipSettings,
        on_call: Callable[[SipCall], None],
        on_lines_lost: Callable[[list[str]], None],
    ) -> None:
        """``on_lines_lost`` gets the SIP Call-IDs the worker held when it died, at once."""
        self.pid = 0
        self.capacity = 0
        self.rate = 0
        """Of its bridge, in Hz; 0 until the first call chooses it."""
        self.sip_port = 0
        self.served = 0
        """Calls placed on it so far."""
        self._settings = settings
        self._on_call = on_call
        self._on_lines_lost = on_lines_lost
        self._idle_since = time.monotonic()
        self._state = WorkerState.STARTING
        self._lines: dict[str, Line] = {}
        self._calls: dict[int, Line] = {}
        self._channel: Channel | None = None
        self._heard = 0.0
        self._shutting_down = False
        self._ready = asyncio.Event()  # or lost
        self._opened = asyncio.Event()  # or lost
        self._lost = asyncio.Event()
        self._log = structlog.get_logger(__name__)

    @property
    def state(self) -> WorkerState:
        """Where the worker's life stands."""
        return self._state

    def _enter(self, state: WorkerState) -> None:
        assert state in NEXT[self._state], (self._state, state)
        self._log.info("line worker state", old=self._state.value, new=state.value)
        self._state = state
        self._ready.set()
        if state is WorkerState.LOST:
            self._opened.set()
            self._lost.set()

    @property
    def calls(self) -> list[SipCall]:
        """The calls it holds now."""
        return [line.call for line in self._calls.values() if line.call]

    @property
    def sip_call_ids(self) -> list[str]:
        """The SIP Call-IDs that have a line on it."""
        return list(self._lines)

    @property
    def free_lines(self) -> int:
        """How many more calls it can take."""
        alive = self._state in (WorkerState.UNRATED, WorkerState.OPEN) and not self._shutting_down
        return self.capacity - len(self._lines) if alive else 0

    @property
    def idle_s(self) -> float:
        """For how long no line of it has been taken, though it is open; else 0."""
        if self._lines or self._state is not WorkerState.OPEN:
            return 0.0
        return time.monotonic() - self._idle_since

    async def run(self) -> None:
        """Spawn the process and watch over it until it is gone; cancelled, kill it. Never returns before it is."""
        ours, theirs = channel_pair()
        process: asyncio.subprocess.Process | None = None
        try:
            with theirs:
                process = await self._spawn(theirs)
            self.pid = process.pid
            self._log = self._log.bind(pid=self.pid)
            self._channel = Channel(ours, self._receive, self._lose)
            await self._watch()
        except OSError as error:  # no process, no memory
            self._log.error("line worker does not start", error=str(error))
        finally:
            if self._channel is None:
                ours.close()
            self._lose("given up")
            if process is not None:
                self._log.info("line worker ended", code=await _end(process))

    async def wait_ready(self) -> None:
        """Wait until the library is loaded; raises ``LineWorkerLost``."""
        await self._ready.wait()
        if self._state is WorkerState.LOST:
            raise LineWorkerLost("line worker did not start")

    def reserve(self, invitation: Invitation, rate: int, rtp_ports: tuple[int, int]) -> Line:
        """Keep a free line for an invitation; an unrated worker gets its ``rate`` (Hz) and RTP ports with it."""
        line = self._lines[invitation.sip_call_id] = Line(invitation, self)
        self.served += 1
        if not self.rate:
            self.rate = rate
            self._send(Open(rate, list(self._settings.codecs), self._settings.rtp_address, *rtp_ports))
        return line

    async def wait_open(self) -> None:
        """Wait until SIP is heard; raises ``LineWorkerLost``."""
        await self._opened.wait()
        if self._state is WorkerState.LOST:
            raise LineWorkerLost("line worker lost")

    def free(self, line: Line) -> None:
        """Give a line back; idempotent."""
        sip_call_id = line.invitation.sip_call_id
        if self._lines.get(sip_call_id) is line:
            del self._lines[sip_call_id]
            self._idle_since = time.monotonic()

    def shut_down(self) -> None:
        """Ask the process to end its calls and itself; ``run`` returns when it has."""
        self._shutting_down = True
        self._send(Shutdown())

    def retire(self) -> None:
        """End an idle process at once; ``run`` returns."""
        self._lose("retired")

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "telephony.sip.line.worker", "--fd", str(theirs.fileno())]
        if self._settings.worker_user is not None:
            command += ["--user", self._settings.worker_user]
        process = await asyncio.create_subprocess_exec(
            *command,
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            cwd=_ROOT,  # where Python finds this package, installed or not
        )
        start_quietly(process.pid)
        return process

    async def _watch(self) -> None:
        """Return when the process is lost: channel closed, or its heartbeat missed."""
        self._heard = time.monotonic()
        while not self._lost.is_set():
            slow = self._state is WorkerState.STARTING or self._shutting_down
            limit = START_S if slow else HEARTBEAT_LOST_S
            silent_s = time.monotonic() - self._heard
            if silent_s > limit:
                self._lose(f"no heartbeat for {silent_s:.1f} s")
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._lost.wait()

    def _lose(self, why: str) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._state is WorkerState.LOST:
            return
        expected = self._shutting_down or not self._lines
        self._log.log(20 if expected else 30, "line worker lost", why=why, calls=len(self._calls))
        placed = self.sip_call_ids if self._state is WorkerState.OPEN else []
        self._enter(WorkerState.LOST)
        calls = self.calls
        self._calls.clear()
        self._lines.clear()
        if placed:
            self._on_lines_lost(placed)
        for call in calls:
            call.lose()

    def _send(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def _receive(self, message: Message) -> None:
        """Take a message; ``ChannelError`` ends a worker that cannot be trusted."""
        match message:
            case Heartbeat():
                self._heard = time.monotonic()
            case Ready(capacity) if self._state is WorkerState.STARTING:
                self.capacity = capacity
                self._heard = time.monotonic()
                self._enter(WorkerState.UNRATED)
            case Opened(sip_port) if self._state is WorkerState.UNRATED:
                self.sip_port = sip_port
                self._enter(WorkerState.OPEN)
                self._opened.set()
            case Incoming(number, sip_call_id):
                self._arrive(number, sip_call_id)
            case Log(level, event):
                self._log.log(_LEVELS.get(level, 40), "line worker says", text=event)
            case Audio() | State() | Media() | Latched() | Dtmf() | Referred() | Stats():
                self._pass_on(message)
            case _:
                raise ChannelError(f"out of turn: {message}")

    def _arrive(self, number: int, sip_call_id: str) -> None:
        line = self._lines.get(sip_call_id)
        if line is None or line.call is not None:  # released meanwhile, or never placed
            self._log.warning("unexpected call on a line", sip_call_id=sip_call_id)
            self._send(Hangup(number, _NO_LINE))
            return
        line.call = SipCall(line.invitation, number, self.rate, self._send)
        self._calls[number] = line
        self._on_call(line.call)

    def _pass_on(self, message: Audio | State | Media | Latched | Dtmf | Referred | Stats) -> None:
        line = self._calls.get(message.call)
        if line is None or line.call is None:
            return
        if isinstance(message, State) and message.state == "disconnected":
            del self._calls[line.call.number]
            self.free(line)
        line.call.receive(message)


_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


async def _end(process: asyncio.subprocess.Process) -> int:
    """Reap a process, killing it where it still runs; return its exit code."""
    try:
        async with asyncio.timeout(_REAP_S):
            return await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await process.wait()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
