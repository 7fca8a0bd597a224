"""The line workers behind the edge: as many as the configured calls need and one spare, each watched and replaced.

A worker's bridge runs at the rate of its first call's codec for the rest of its life, so that PJSIP, whose
resamplers droop below 3.4 kHz, need not resample. So the pool keeps a worker whose rate is still open where it can.
Runs on the gateway's loop.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final, Self

import structlog

from config.schema import SipSettings
from telephony.errors import LineWorkerLost, LocalError, NoFreeLine
from telephony.sip.codec import CODEC_RATES
from telephony.sip.invitation import Invitation
from telephony.sip.line.call import SipCall
from telephony.sip.line.line_worker import Line, LineWorker, WorkerState

_PORTS_PER_CALL: Final = 4  # RTP and RTCP, twice: a port just closed is not taken again at once
_SHUTDOWN_S: Final = 3.0  # time for a worker to end its calls and itself
_RENEW_EVERY_S: Final = 10.0
_IDLE_S: Final = 5.0  # an idle worker is left alone this long: a peer may still repeat its last request
_MAX_SERVED: Final = 10_000  # calls after which an idle worker is renewed
_RESTART_S: Final = (0.0, 0.2, 0.5, 1.0)  # pauses before the next start of a worker that does not come up

_log = structlog.get_logger(__name__)


class LinePool:
    """Every line of this gateway. ``async with`` starts the workers, and ends them and their calls."""

    def __init__(
        self,
        settings: SipSettings,
        on_call: Callable[[SipCall], None],
        on_lines_lost: Callable[[list[str]], None],
    ) -> None:
        """``on_call`` gets each call its worker reports, ``on_lines_lost`` the SIP Call-IDs a dead worker held."""
        self._settings = settings
        self._on_call = on_call
        self._on_lines_lost = on_lines_lost
        self._workers: dict[int, LineWorker] = {}  # by seat: a seat keeps its RTP ports through its workers' lives
        self._capacity = 0
        self._tasks = asyncio.TaskGroup()
        self._closing = asyncio.Event()

    @property
    def workers(self) -> list[LineWorker]:
        """The workers that run now."""
        return list(self._workers.values())

    @property
    def free_lines(self) -> int:
        """How many calls can be placed now."""
        return sum(worker.free_lines for worker in self.workers)

    async def __aenter__(self) -> Self:
        """Start every worker; raises ``LineWorkerLost`` when one does not come up."""
        await self._tasks.__aenter__()
        try:
            first = self._seat(0)
            await first.wait_ready()
            self._capacity = first.capacity
            count = -(-self._settings.max_calls // self._capacity) + 1
            self._check_rtp_ports(count)
            others = [self._seat(seat) for seat in range(1, count)]
            for worker in others:
                await worker.wait_ready()
            self._tasks.create_task(self._renew(), name="line pool renewal")
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """End every worker, with its calls; no process is left. What was raised inside passes as it is."""
        self.close()
        await self._tasks.__aexit__(None, None, None)

    def close(self) -> None:
        """Ask every worker to end its calls and itself; no call is placed any more. Idempotent."""
        if not self._closing.is_set():
            self._closing.set()
            for worker in self.workers:
                worker.shut_down()

    async def place(self, invitation: Invitation) -> Line:
        """Keep a line for an invitation; its INVITE may be sent to the line's address. Raises ``NoFreeLine``."""
        if any(invitation.sip_call_id in worker.sip_call_ids for worker in self.workers):
            raise NoFreeLine("the Call-ID has a line already")
        rate = self._rate_of(invitation)
        while True:
            seat = self._choose(rate)
            if seat is None:
                raise NoFreeLine("every line is taken")
            worker = self._workers[seat]
            line = worker.reserve(invitation, rate, self._rtp_ports(seat))
            try:
                await worker.wait_open()
            except LineWorkerLost:
                continue
            except asyncio.CancelledError:
                line.release()
                raise
            return line

    def _rate_of(self, invitation: Invitation) -> int:
        """The rate of the codec the answer will name: PJSIP follows the offer's order."""
        ours = self._settings.codecs
        for codec in invitation.codecs:
            if codec in ours:
                return CODEC_RATES[codec]
        return CODEC_RATES[ours[0]]

    def _choose(self, rate: int) -> int | None:
        """The seat for a call at ``rate``: of that rate and fullest, else of no rate yet, else any with a line."""
        if self._closing.is_set():
            return None
        free = {seat: worker for seat, worker in self._workers.items() if worker.free_lines > 0}
        for wanted in (rate, 0):
            seats = [seat for seat, worker in free.items() if worker.rate == wanted]
            if seats:
                return min(seats, key=lambda seat: (free[seat].free_lines, seat))
        return min(free, default=None)

    def _rtp_ports(self, seat: int) -> tuple[int, int]:
        """The first and last RTP port of a seat; it begins with an even one (RFC 3550, section 11)."""
        ports = self._settings.rtp_ports
        first = ports.first + ports.first % 2
        count = -(-self._settings.max_calls // self._capacity) + 1
        size = (ports.last + 1 - first) // count // 2 * 2
        return first + seat * size, first + (seat + 1) * size - 1

    def _check_rtp_ports(self, count: int) -> None:
        first, last = self._rtp_ports(0)
        needed = self._capacity * _PORTS_PER_CALL
        if last + 1 - first < needed:
            raise LocalError(
                f"sip.rtp_ports: {count} line workers of {self._capacity} calls need {count * needed} ports at least"
            )

    def _seat(self, seat: int) -> LineWorker:
        """Put a worker on a seat and keep it occupied; return the first one."""
        worker = self._workers[seat] = LineWorker(self._settings, self._on_call, self._on_lines_lost)
        self._tasks.create_task(self._occupy(seat, worker), name=f"line worker {seat}")
        return worker

    async def _occupy(self, seat: int, worker: LineWorker) -> None:
        """Run a worker, and another when it is lost, until the pool closes."""
        failures = 0
        while True:
            await self._run(worker)
            failures = 0 if worker.capacity else min(failures + 1, len(_RESTART_S) - 1)
            if failures and not self._closing.is_set():
                await asyncio.sleep(_RESTART_S[failures])
            if self._closing.is_set():
                del self._workers[seat]
                return
            worker = self._workers[seat] = LineWorker(self._settings, self._on_call, self._on_lines_lost)

    async def _run(self, worker: LineWorker) -> None:
        """Run a worker until it is lost; when the pool closes, until it has ended itself or its time is up."""
        async with asyncio.TaskGroup() as group:
            life = group.create_task(worker.run(), name="line worker life")
            end = group.create_task(self._closing.wait(), name="line worker end")
            await asyncio.wait([life, end], return_when=asyncio.FIRST_COMPLETED)
            end.cancel()
            await asyncio.wait([life], timeout=_SHUTDOWN_S if self._closing.is_set() else 0)
            life.cancel()

    async def _renew(self) -> None:
        """Now and then replace an idle worker, so that one of open rate is at hand and none grows old."""
        while not self._closing.is_set():
            worker = self._worn()
            if worker is not None:
                worker.retire()
            try:
                async with asyncio.timeout(_RENEW_EVERY_S if worker else 1.0):
                    await self._closing.wait()
            except TimeoutError:
                continue

    def _worn(self) -> LineWorker | None:
        """An idle worker that is better replaced: one that has served long, or of the rate most common."""
        idle = [worker for worker in self.workers if worker.idle_s > _IDLE_S]
        old = [worker for worker in idle if worker.served >= _MAX_SERVED]
        if old or any(worker.state is not WorkerState.OPEN for worker in self.workers):
            return next(iter(old), None)
        rates = Counter(worker.rate for worker in self.workers)
        return max(idle, key=lambda worker: rates[worker.rate], default=None)
