"""How messages are written anew on their way across the edge, so that neither side sees the other.

What crosses is listed here, and nothing else does: a field that is not in ``_CARRIED`` stays behind. Via,
Record-Route, Contact and session addresses are the edge's own towards either side.
"""

import re
import secrets
from collections.abc import Callable
from typing import Final

from telephony.errors import SipParseError
from telephony.sip.edge.dialog import Dialog
from telephony.sip.edge.resolve import Faces
from telephony.sip.edge.transaction import Outlet
from telephony.sip.edge.transport import Address, Transport
from telephony.sip.edge.validation import (
    ALLOWED,
    EXTENSIONS,
    INFO_TYPES,
    REFER_EVENT,
    SIPFRAG,
    SIPFRAG_STATUS,
    SUBSCRIPTION_STATE,
)
from telephony.sip.fields import MAGIC_COOKIE, Core, media_type, read_contact
from telephony.sip.message import Headers, Request, Response, clean
from telephony.sip.sdp import SessionDescription
from telephony.sip.uri import NameAddr, SipUri, format_host

SERVER: Final = "Denwa"
CONTACT_METHODS: Final = frozenset({"INVITE", "UPDATE", "REFER", "NOTIFY"})
"""Methods that refresh a dialog's target (RFC 3261 section 12.2, RFC 3311, RFC 6665 section 4.1.2.4)."""

_SESSION_EXPIRES: Final = re.compile(r"\s*(\d{1,9})\s*(?:;\s*refresher\s*=\s*(uac|uas)\s*)?(?:;.*)?", re.I)
_REASON: Final = re.compile(r"\s*(SIP|Q\.850)\s*;\s*cause\s*=\s*(\d{1,3})\b.*", re.I)
_DELTA: Final = re.compile(r"\s*(\d{1,9})\b.*")
_RACK: Final = re.compile(r"\s*(\d{1,10})\s+(\d{1,10})\s+(INVITE)\s*")
_INFO_BODY: Final = re.compile(r"[\x20-\x7e\r\n]{0,256}")


def _session_expires(value: str) -> str:
    match = _SESSION_EXPIRES.fullmatch(value)
    if match is None:
        return ""
    return match.group(1) + (f";refresher={match.group(2).lower()}" if match.group(2) else "")


def _listed(names: tuple[str, ...]) -> Callable[[str], str]:
    known = {name.lower(): name for name in names}
    return lambda value: ", ".join(known[t] for item in value.split(",") if (t := item.strip().lower()) in known)


def _groups(pattern: re.Pattern[str], form: str) -> Callable[[str], str]:
    return lambda value: form.format(*match.groups()) if (match := pattern.fullmatch(value)) else ""


def _refer_to(value: str) -> str:
    try:
        uri = NameAddr.parse(value).uri
        return f"<{SipUri.parse(uri)}>"
    except SipParseError:
        return ""


def _event(value: str) -> str:
    match = REFER_EVENT.fullmatch(value)
    if match is None:
        return ""
    return "refer" + (f";id={match.group(1)}" if match.group(1) else "")


_CARRIED: Final[dict[str, Callable[[str], str]]] = {
    "Allow": _listed(ALLOWED),
    "Supported": _listed(EXTENSIONS),
    "Require": _listed(EXTENSIONS),
    "Session-Expires": _session_expires,
    "Min-SE": _groups(_DELTA, "{}"),
    "RSeq": _groups(_DELTA, "{}"),
    "RAck": _groups(_RACK, "{} {} {}"),
    "Retry-After": _groups(_DELTA, "{}"),
    "Reason": _groups(_REASON, "{};cause={}"),
    "Refer-To": _refer_to,
    "Event": _event,
    "Subscription-State": _groups(SUBSCRIPTION_STATE, "{}"),
}
"""The fields that cross, each with the function that writes its value anew; "" leaves the field out.

Subscription-State crosses without its ``expires``: PJSIP would refresh what ends soon, and take the peer's refusal of
that for the outcome of the transfer.
"""


class Passage:
    """Writes messages for the other side of the edge; ``internal`` is its address facing the workers."""

    def __init__(self, internal: Address, faces: Faces) -> None:
        self.instance = f"dnw{secrets.token_hex(5)}"
        self._internal = f"{internal[0]}:{internal[1]}"
        self._faces = faces

    def branch(self) -> str:
        """A branch never used before, marked as ours."""
        return f"{MAGIC_COOKIE}-{self.instance}-{secrets.token_hex(8)}"

    def own_uri(self, transport: Transport, peer: str, user: str = "") -> SipUri:
        """The edge's URI as this peer may reach it over the same transport."""
        host, port = transport.address
        params: dict[str, str | None] = {} if transport.name == "udp" else {"transport": transport.name}
        return SipUri(format_host(self._faces.towards(peer, host)), user, port, params)

    def request_to_worker(self, request: Request, core: Core, dialog: Dialog) -> Request:
        """A peer's request as the dialog's worker gets it."""
        uri = dialog.worker_target or _invited(request.uri, dialog.worker)
        out = Request(request.method, uri)
        out.headers.add("Via", f"SIP/2.0/UDP {self._internal};branch={self.branch()}")
        out.headers.add("Max-Forwards", str(max(core.max_forwards - 1, 0)))
        out.headers.add("From", str(_bare(core.from_)))
        out.headers.add("To", str(_bare(core.to)))
        out.headers.add("Call-ID", core.call_id)
        out.headers.add("CSeq", f"{core.cseq} {core.method}")
        if request.method in CONTACT_METHODS:
            out.headers.add("Contact", f"<sip:peer@{self._internal}>")
        _carry(request.headers, out.headers)
        _carry_body(request, out, None)
        return out

    def request_to_peer(self, request: Request, dialog: Dialog, outlet: Outlet) -> Request:
        """A worker's request as the dialog's peer gets it; ``outlet`` is the next hop."""
        out = self.new_request(request.method, (request.headers.get("CSeq") or "").split()[0], dialog, outlet)
        if request.method in CONTACT_METHODS:
            out.headers.add("Contact", f"<{dialog.contact}>")
        _carry(request.headers, out.headers)
        _carry_body(request, out, self._face(dialog))
        return out

    def new_request(self, method: str, cseq: str, dialog: Dialog, outlet: Outlet) -> Request:
        """A request of the dialog towards its peer (section 12.2.1.1): strict routers get what they expect."""
        routes = list(dialog.route_set)
        uri = dialog.remote_target
        if routes and not _is_loose(routes[0]):
            routes.append(f"<{uri}>")
            uri = NameAddr.parse(routes.pop(0)).uri
        own = self.own_uri(outlet.transport, outlet.address[0])
        out = Request(method, uri)
        name = outlet.transport.name.upper()
        out.headers.add("Via", f"SIP/2.0/{name} {own.host}:{own.port};rport;branch={self.branch()}")
        for route in routes:
            out.headers.add("Route", route)
        out.headers.add("Max-Forwards", "70")
        out.headers.add("From", str(dialog.local))
        out.headers.add("To", str(dialog.remote))
        out.headers.add("Call-ID", dialog.call_id)
        out.headers.add("CSeq", f"{cseq} {method}")
        out.headers.add("User-Agent", SERVER)
        return out

    def response_to_peer(self, response: Response, request: Request, dialog: Dialog) -> Response:
        """A worker's response as the peer gets it; ``request`` is the peer's, whose Via, From and To count."""
        out = Response.to(request, response.status, response.reason, dialog.worker_tag)
        if request.method == "INVITE" and 300 <= response.status < 400:
            for contact in _elsewhere(response.headers, dialog.worker):
                out.headers.add("Contact", contact)
        if request.method in CONTACT_METHODS and 100 < response.status < 300:
            for route in (dialog.record_route, *request.headers.all("Record-Route")):
                out.headers.add("Record-Route", route)
            out.headers.add("Contact", f"<{dialog.contact}>")
        _carry(response.headers, out.headers)
        out.headers.add("Server", SERVER)
        _carry_body(response, out, self._face(dialog))
        return out

    def response_to_worker(self, response: Response, request: Request) -> Response:
        """A peer's response as the worker gets it; ``request`` is the worker's."""
        out = Response.to(request, response.status, response.reason)
        if request.method in CONTACT_METHODS and 100 < response.status < 300:
            out.headers.add("Contact", f"<sip:peer@{self._internal}>")
        _carry(response.headers, out.headers)
        _carry_body(response, out, None)
        return out

    def _face(self, dialog: Dialog) -> str:
        return self._faces.towards(dialog.peer.address[0], dialog.peer.transport.address[0])


def target_of(headers: Headers) -> str | None:
    """The Contact URI of a message, None where it has none of use."""
    try:
        return read_contact(headers)
    except SipParseError:
        return None


def _elsewhere(headers: Headers, worker: Address | None) -> list[str]:
    """The Contacts of a redirection as the gateway gave them; the worker's own, which PJSIP adds, is none of them."""
    contacts = []
    for value in headers.all("Contact"):
        try:
            uri = SipUri.parse(NameAddr.parse(value).uri)
        except SipParseError:
            continue
        if (uri.address, uri.port) != worker:
            contacts.append(f"<{uri}>")
    return contacts


def _invited(uri: str, worker: Address | None) -> str:
    """The Request-URI a worker is invited with: the called user at its own address."""
    host, port = worker or ("127.0.0.1", 5060)
    return str(SipUri(host, SipUri.parse(uri).user.partition(";")[0], port))


def _bare(address: NameAddr) -> NameAddr:
    """Without display name and parameters but the tag; a URI that is neither SIP nor tel is withheld."""
    scheme = address.uri.partition(":")[0].lower()
    uri = address.plain() if scheme in ("sip", "sips", "tel") else "sip:anonymous@anonymous.invalid"
    return NameAddr(uri).with_tag(address.tag)


def _is_loose(route: str) -> bool:
    try:
        return "lr" in SipUri.parse(NameAddr.parse(route).uri).params
    except SipParseError:
        return True


def _carry(source: Headers, target: Headers) -> None:
    for name, rewrite in _CARRIED.items():
        values = source.all(name)
        if values and (value := rewrite(", ".join(values))):
            target.add(name, value)


def _carry_body(source: Request | Response, target: Request | Response, address: str | None) -> None:
    """Write the body anew, with ``address`` in it where one is given; what cannot be is left out."""
    kind = media_type(source.headers)
    if source.body and kind == "application/sdp":
        try:
            description = SessionDescription.parse(source.body)
        except SipParseError:
            return
        target.headers.add("Content-Type", kind)
        target.body = (description if address is None else description.with_address(address)).serialise()
    elif isinstance(source, Request) and source.method == "INFO" and kind in INFO_TYPES:
        text = source.body.decode("latin-1")
        if _INFO_BODY.fullmatch(text):
            target.headers.add("Content-Type", kind)
            target.body = source.body
    elif kind == SIPFRAG and (told := SIPFRAG_STATUS.fullmatch(source.body)):
        status, reason = told.group(1).decode(), (told.group(2) or b"").decode("ascii", "replace")
        target.headers.add("Content-Type", f"{SIPFRAG};version=2.0")
        target.body = f"SIP/2.0 {status} {clean(reason)}\r\n".encode("ascii", "replace")
