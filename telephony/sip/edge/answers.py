"""Answers the edge gives itself, and where answers go (RFC 3261 sections 8.2.6, 8.2.7 and 18.2.2)."""

import hashlib
import secrets

from telephony.sip.edge.admission import Refused
from telephony.sip.edge.passage import SERVER
from telephony.sip.edge.transaction import Outlet
from telephony.sip.edge.transport import Address, Transport
from telephony.sip.edge.validation import Rejection
from telephony.sip.fields import Via
from telephony.sip.message import Request, Response

_SECRET = secrets.token_bytes(16)


def answer(request: Request, refusal: Rejection | Refused) -> Response:
    """The answer that says so, with a tag of its own where To has none."""
    if isinstance(refusal, Refused):
        fields = {} if refusal.retry_after_s is None else {"Retry_After": str(refusal.retry_after_s)}
        if refusal.contact:
            fields["Contact"] = f"<{refusal.contact}>"
        refusal = Rejection(refusal.status, refusal.reason, **fields)
    response = refusal.answer(request, secrets.token_hex(8))
    response.headers.add("Server", SERVER)
    return response


def reply(request: Request, rejection: Rejection, outlet: Outlet) -> None:
    """Answer without a transaction: the same request gets the same tag again. ACK is never answered."""
    if request.method == "ACK":
        return
    fields = "\0".join(request.headers.get(name) or "" for name in ("Via", "From", "Call-ID", "CSeq"))
    response = rejection.answer(request, hashlib.blake2b(fields.encode(), key=_SECRET, digest_size=8).hexdigest())
    response.headers.add("Server", SERVER)
    outlet.send(response)


def reply_outlet(via: Via, source: Address, transport: Transport) -> Outlet:
    """Where responses to a request go: over its connection while that is open, else where its Via says."""
    if transport.reliable:
        return Outlet(transport, source if transport.connected(source) else (source[0], via.port or 5060))
    return Outlet(transport, via.reply_address(source))
