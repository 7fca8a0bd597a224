"""An admitted INVITE, as the edge tells it to the rest of the gateway."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an INVITE out of dialog asks for. Strings are parsed and clean, never raw header text."""

    sip_call_id: str
    request_uri: str
    called: str  # user part of the Request-URI, "" where it has none
    caller: str  # user part of From, "" where it has none
    caller_uri: str  # From's URI without parameters
    source: tuple[str, int]  # address the INVITE came from
    transport: str  # "udp" or "tcp"
    codecs: tuple[str, ...]  # audio encodings offered in SDP, peer's order, upper case; empty: delayed offer
