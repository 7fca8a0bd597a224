"""Where a SIP URI leads, and which of our addresses faces a peer. Gateway's event loop; nothing here waits.

Names are for a later day (RFC 3263 through dnspython): ``resolve`` is the one place that will ask.
"""

import socket
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from telephony.errors import RemoteError
from telephony.sip.edge.transport import Address
from telephony.sip.uri import SipUri

MAX_FACES: Final = 1_024


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop: transport and address (RFC 3263 section 4)."""

    transport: str
    address: Address


def resolve(uri: SipUri) -> Hop:
    """The next hop of a URI whose host is an IP literal or localhost.

    Raises RemoteError for other names and for transports other than UDP and TCP.
    """
    transport = uri.transport or "udp"
    if uri.scheme != "sip" or transport not in ("udp", "tcp"):
        raise RemoteError(f"no transport for {uri}")
    host = "127.0.0.1" if uri.host.lower() == "localhost" else uri.address
    try:
        address = ip_address(host)
    except ValueError:
        raise RemoteError(f"cannot resolve the name {uri.host}: only IP addresses are supported") from None
    if address.is_multicast or address.is_unspecified or uri.port == 0:
        raise RemoteError(f"no place to send to: {uri}")
    return Hop(transport, (str(address), uri.port or 5060))


class Faces:
    """Which address a peer is told: the external one, the one bound, or the one that faces the peer (cached)."""

    def __init__(self, external_address: str | None) -> None:
        self._external_address = external_address
        self._known: OrderedDict[str, str] = OrderedDict()

    def towards(self, peer: str, bound: str) -> str:
        """Our address as this peer should see it; ``bound`` is where the transport listens."""
        if self._external_address is not None:
            return self._external_address
        if bound not in ("0.0.0.0", "::"):
            return bound
        peer = peer.removeprefix("::ffff:")  # an IPv4 peer heard on an IPv6 socket
        face = self._known.get(peer)
        if face is None:
            face = self._known[peer] = _local_address_facing(peer)
            if len(self._known) > MAX_FACES:
                self._known.popitem(last=False)
        return face


def _local_address_facing(peer: str) -> str:
    """Ask the routing table by connecting a UDP socket; no packet is sent."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))
        except OSError:
            return "127.0.0.1" if family == socket.AF_INET else "::1"
        return str(probe.getsockname()[0])
