import asyncio
import contextlib
import socket

import numpy as np

from telephony.call import Frame
from telephony.sip.line.call import SipCall
from telephony.sip.line.latch import parse_address
from tests.peers import g711, rtp
from tests.peers.audio import tone
from tests.telephony.sip.line.direct import DirectPool, calling, until

QUIET = tone(1_000, -60, 1.0, 8_000)
LOUD = g711.encode(tone(700, -3, 0.02, 8_000), 0)


class _Listener:
    """Answers, plays silence, and remembers the loudest sample of each frame."""

    def __init__(self) -> None:
        self.peaks: list[int] = []

    def answer(self, call: SipCall) -> None:
        def hear(frame: Frame, at: float) -> None:
            self.peaks.append(int(np.abs(frame.astype(np.int32)).max()))
            call.play(np.zeros_like(frame))

        call.on_frame = hear
        call.answer()


def _rogue(target: tuple[str, int], packets: int, sequence: int = 40_000) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    for number in range(packets):
        sock.sendto(rtp.build(0, sequence + number, number * 160, 99, LOUD), target)
    return sock


async def test_a_strangers_rtp_is_neither_heard_nor_answered() -> None:
    """Bursts from another address in mid-call change nothing: PJSIP alone would follow after ten packets."""
    listener = _Listener()
    async with DirectPool(listener.answer) as pool, calling(pool, QUIET) as (caller, _):
        await until(lambda: len(listener.peaks) > 8)
        listener.peaks.clear()
        with contextlib.ExitStack() as rogues:
            socks = [rogues.enter_context(_rogue(caller.rtp_peer, 50)) for _ in range(3)]
            heard = len(caller.heard)
            await until(lambda: len(listener.peaks) > 10)
            assert max(listener.peaks) < 200
            assert len(caller.heard) > heard + 30
            for sock in socks:
                with contextlib.suppress(BlockingIOError):
                    assert not sock.recv(2_048)


async def test_a_peer_that_sends_from_elsewhere_is_followed() -> None:
    """Symmetric RTP: the first packet's source, not SDP's address, gets our audio, and keeps the call to itself."""
    listener = _Listener()
    async with DirectPool(listener.answer) as pool, calling(pool, QUIET) as (caller, _):
        speaking = next(task for task in asyncio.all_tasks() if task.get_name() == "speak")
        speaking.cancel()  # before its first packet, as good as always
        await asyncio.wait([speaking])
        call = pool.call_of(caller)
        await until(lambda: len(listener.peaks) > 2)
        if caller.heard and max(listener.peaks) > 0:
            return  # the announced address was faster: nothing to follow
        with _rogue(caller.rtp_peer, 1) as behind_nat:
            await until(lambda: _readable(behind_nat))
            listener.peaks.clear()
            for number in range(1, 40):
                packet = rtp.build(0, 40_000 + number, number * 160, 99, LOUD)
                behind_nat.sendto(packet, caller.rtp_peer)
                await asyncio.sleep(rtp.PACKET_S)
            assert max(listener.peaks) > 10_000
        assert call.codec == "PCMU"


async def test_a_reinvite_with_another_address_moves_the_call() -> None:
    """The peer says that its audio comes from another port now: it is heard there, and the old one no more."""
    listener = _Listener()
    async with DirectPool(listener.answer) as pool, calling(pool, QUIET) as (caller, _):
        await until(lambda: len(listener.peaks) > 8)
        old = caller._rtp
        loop = asyncio.get_running_loop()
        arrived: list[bytes] = []
        moved, _ = await loop.create_datagram_endpoint(lambda: _Sink(arrived), local_addr=("127.0.0.1", 0))
        caller._rtp = moved
        try:
            caller.reinvite()
            await until(lambda: len(arrived) > 20)
            listener.peaks.clear()
            for number in range(50):
                old.sendto(rtp.build(0, 40_000 + number, number * 160, 99, LOUD), caller.rtp_peer)
            await until(lambda: len(listener.peaks) > 8)
            assert max(listener.peaks) < 200
        finally:
            old.close()


def test_addresses() -> None:
    """A usable address is parsed; a held stream's 0.0.0.0 and nonsense are none."""
    assert parse_address("192.0.2.1:4000") == ("192.0.2.1", 4_000)
    assert parse_address("[2001:db8::1]:4000") == ("2001:db8::1", 4_000)
    for text in ("", "0.0.0.0:4000", "192.0.2.1:0", "192.0.2.1"):
        assert parse_address(text) is None


def _readable(sock: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(sock.recv(2_048))
    return False


class _Sink(asyncio.DatagramProtocol):
    def __init__(self, received: list[bytes]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._received.append(data)
