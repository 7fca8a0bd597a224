"""RTP from one source alone (line worker).

PJSIP takes RTP from any address until the peer's first packet, and ten packets in a row from a stranger take the
call over (``PJMEDIA_RTP_NAT_PROBATION_CNT``). So once a stream's source is known, the kernel is told to drop all
else: the UDP sockets PJSIP opened are connected to it. Symmetric RTP (RFC 4961) stays possible: the first packet
may come from elsewhere than SDP says. A re-INVITE that names another address lets go.
"""

import contextlib
import ctypes
import os
import socket
import stat
from collections.abc import Iterator

import pjsua2 as pj

_MAX_FD = 4_096
_libc = ctypes.CDLL(None, use_errno=True)


def parse_address(text: str) -> tuple[str, int] | None:
    """Return ``("192.0.2.1", 4000)`` for ``"192.0.2.1:4000"``; None where there is no usable address."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) == 0 or host in {"0.0.0.0", "[::]", "::"}:
        return None
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def _udp_socket(port: int) -> Iterator[socket.socket | None]:
    """Borrow this process's UDP socket that is bound to ``port``."""
    for fd in range(3, _MAX_FD):
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
        except OSError:
            continue
        sock = socket.socket(fileno=fd)
        try:
            if sock.type == socket.SOCK_DGRAM and sock.family != socket.AF_UNIX and sock.getsockname()[1] == port:
                yield sock
                return
        finally:
            sock.detach()
    yield None


def _connect(port: int, peer: tuple[str, int] | None) -> None:
    """Take datagrams on ``port`` from ``peer`` alone; from anyone when None (RFC 1122 section 4.1.3.5)."""
    with _udp_socket(port) as sock:
        if sock is None:
            return
        if peer is None:
            unspecified = bytes(ctypes.sizeof(ctypes.c_uint64) * 2)  # struct sockaddr of AF_UNSPEC
            _libc.connect(sock.fileno(), unspecified, len(unspecified))
            return
        with contextlib.suppress(OSError):
            if sock.getpeername()[:2] == peer:
                return
        with contextlib.suppress(OSError):  # no route: it stays open, and is tried again
            sock.connect(peer)


class Latch:
    """Where one call's RTP may come from."""

    def __init__(self) -> None:
        self.source: tuple[str, int] | None = None
        """The only address that RTP is taken from; None: not yet known."""
        self._negotiated: tuple[str, int] | None = None
        self._rtcp: tuple[str, int] | None = None
        self._left: tuple[str, int] | None = None

    def negotiate(self, info: pj.MediaTransportInfo, rtp: str, rtcp: str) -> None:
        """Take note of the addresses in the peer's SDP; another one than before lets the old source go."""
        address = parse_address(rtp)
        if address is None or address == self._negotiated:
            return
        before, self._negotiated, self._rtcp = self._negotiated, address, parse_address(rtcp)
        if self.source is None:
            return
        behind_nat = self.source != before
        self._left = self.source
        self.source = None if behind_nat else address
        self._bind(info, self.source)

    def watch(self, info: pj.MediaTransportInfo) -> bool:
        """Latch on to the source of the first packet; True when that happened just now."""
        if self.source is not None:
            self._bind(info, self.source)  # PJSIP may have opened its sockets anew
            return False
        source = parse_address(info.srcRtpName)
        if source is None or source == self._left:
            return False
        self.source = source
        self._bind(info, source)
        return True

    def _bind(self, info: pj.MediaTransportInfo, source: tuple[str, int] | None) -> None:
        rtp = parse_address(info.localRtpName) or ("", int(info.localRtpName.rpartition(":")[2] or 0))
        _connect(rtp[1], source)
        control = int(info.localRtcpName.rpartition(":")[2] or 0)
        if source is None:
            _connect(control, None)
        elif source == self._negotiated and self._rtcp is not None:
            _connect(control, self._rtcp)
        else:
            seen = parse_address(info.srcRtcpName)
            if seen is not None and seen[0] == source[0]:
                _connect(control, seen)
