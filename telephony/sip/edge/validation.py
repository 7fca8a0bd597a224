"""Whether a request may go further: the checks of RFC 3261 sections 8.2 and 16.3. Pure."""

import re
from typing import Final

from telephony.errors import SipParseError
from telephony.sip.fields import Core, media_type
from telephony.sip.message import Request, Response
from telephony.sip.sdp import SessionDescription
from telephony.sip.uri import SipUri

ALLOWED: Final = ("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "PRACK", "UPDATE", "INFO", "NOTIFY")
IN_DIALOG_ONLY: Final = frozenset({"BYE", "PRACK", "UPDATE", "INFO", "NOTIFY"})
WORKER_ALLOWED: Final = (*(method for method in ALLOWED if method != "NOTIFY"), "REFER")
"""What a line worker may send in a dialog: it refers a peer elsewhere, and is itself referred nowhere."""
KNOWN: Final = frozenset({*ALLOWED, "REGISTER", "MESSAGE", "SUBSCRIBE", "NOTIFY", "PUBLISH", "REFER"})
EXTENSIONS: Final = ("100rel", "timer")
"""Option tags of what the line workers can do and the edge lets through."""

INFO_TYPES: Final = frozenset({"application/dtmf-relay", "application/dtmf"})
SIPFRAG: Final = "message/sipfrag"  # RFC 3420

REFER_EVENT: Final = re.compile(r"\s*refer\s*(?:;\s*id\s*=\s*(\d{1,10})\s*)?(?:;.*)?", re.I)
SUBSCRIPTION_STATE: Final = re.compile(r"\s*(active|pending|terminated)\s*(?:;.*)?", re.I)
SIPFRAG_STATUS: Final = re.compile(rb"SIP/2\.0 ([1-6]\d\d)(?: ([^\r\n]{0,256}))?\s*?(?:\r?\n.*)?", re.I | re.S)
"""What a NOTIFY tells of a REFER, in two fields and the status line in its body (RFC 3515 section 2.4.5)."""


class Rejection(Exception):  # an answer, no fault
    """A request gets this final answer, with these further header fields."""

    def __init__(self, status: int, reason: str | None = None, **fields: str) -> None:
        super().__init__(f"{status} {reason or ''}")
        self.status = status
        self.reason = reason
        self.fields = {name.replace("_", "-"): value for name, value in fields.items()}

    def answer(self, request: Request, tag: str) -> Response:
        """The response that says so."""
        response = Response.to(request, self.status, self.reason, tag)
        for name, value in self.fields.items():
            response.headers.add(name, value)
        return response


def check_method(method: str, in_dialog: bool, allowed: tuple[str, ...] = ALLOWED) -> None:
    """Method inspection (section 8.2.1). Raises Rejection: 501, 405 or 481."""
    if method not in KNOWN:
        raise Rejection(501, Allow=", ".join(allowed))
    if method not in allowed:
        raise Rejection(405, Allow=", ".join(allowed))
    if not in_dialog and method in IN_DIALOG_ONLY:
        raise Rejection(481)


def check_uri(uri: str) -> SipUri:
    """The Request-URI, parsed (section 8.2.2.1). Raises Rejection: 416 or 400."""
    try:
        parsed = SipUri.parse(uri)
    except SipParseError as error:
        raise Rejection(error.status) from None
    if parsed.headers:
        raise Rejection(400, "Bad Request-URI")
    return parsed


def check_path(request: Request, core: Core, instance: str) -> None:
    """Max-Forwards, loops and required extensions (sections 16.3 and 8.2.2.3). Raises Rejection: 483, 482 or 420.

    ``instance`` marks every branch this edge ever wrote.
    """
    headers = request.headers
    if core.max_forwards == 0 and request.method != "OPTIONS":
        raise Rejection(483)
    if any(instance in via for via in headers.all("Via")):
        raise Rejection(482)
    if unsupported := headers.tokens("Proxy-Require"):
        raise Rejection(420, Unsupported=", ".join(unsupported))
    unsupported = [tag for tag in headers.tokens("Require") if tag.lower() not in EXTENSIONS]
    if unsupported and request.method not in ("ACK", "CANCEL"):
        raise Rejection(420, Unsupported=", ".join(unsupported))


def check_content(request: Request) -> SessionDescription | None:
    """Content processing (section 8.2.3): the session description of a request, None where it has none.

    Raises Rejection: 415 for another type or an encoded body, 400 or 413 for a description that does not parse.
    """
    if not request.body:
        return None
    kind = media_type(request.headers)
    if not kind:
        raise Rejection(400, "No Content-Type")
    if (request.headers.get("Content-Encoding") or "identity").lower() != "identity":
        raise Rejection(415, Accept="application/sdp", Accept_Encoding="identity")
    if request.method == "INFO" and kind in INFO_TYPES:
        return None
    if request.method == "NOTIFY":
        if kind != SIPFRAG:
            raise Rejection(415, Accept=SIPFRAG)
        return None
    if kind != "application/sdp":
        raise Rejection(415, Accept="application/sdp")
    try:
        return SessionDescription.parse(request.body)
    except SipParseError as error:
        raise Rejection(error.status, "Bad Session Description" if error.status == 400 else None) from None


def check_notify(request: Request, referring: bool) -> None:
    """Whether a NOTIFY inside a dialog tells of a REFER that the dialog's worker sent.

    Raises Rejection: 489 for another event (RFC 6665 section 8.3.2), 481 without a subscription (section 4.1.3), 400
    where its state or the status it should tell is missing.
    """
    if not REFER_EVENT.fullmatch(request.headers.get("Event") or ""):
        raise Rejection(489, Allow_Events="refer")
    if not referring:
        raise Rejection(481, "Subscription Does Not Exist")
    if not SUBSCRIPTION_STATE.fullmatch(request.headers.get("Subscription-State") or ""):
        raise Rejection(400, "Bad Subscription-State")
    if not SIPFRAG_STATUS.fullmatch(request.body):
        raise Rejection(400, "Bad Sipfrag")


def check_accept(request: Request) -> None:
    """Whether the answer may be a session description. Raises Rejection (406)."""
    if request.headers.get("Accept") is None:
        return
    ranges = {item.partition(";")[0].strip().lower() for item in request.headers.tokens("Accept")}
    if not ranges & {"application/sdp", "application/*", "*/*"}:
        raise Rejection(406)


def check_codecs(description: SessionDescription | None, codecs: list[str]) -> tuple[str, ...]:
    """The audio encodings offered, () for a delayed offer. Raises Rejection (488) where we speak none of them."""
    if description is None:
        return ()
    offered = description.audio_encodings()
    if not set(offered) & set(codecs):
        raise Rejection(488, Warning='304 denwa "No common codec"')
    return tuple(dict.fromkeys(offered))
