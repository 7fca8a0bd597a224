"""The torture messages of RFC 4475 that concern an edge, written after its sections; the names are the RFC's.

Line ends are CRLF; ``{n}`` in a Content-Length is the body's length.
"""

_SDP = (
    "v=0\no=mhandley 29739 7272939 IN IP4 192.0.2.3\ns=-\nc=IN IP4 192.0.2.4\nt=0 0\n"
    "m=audio 49217 RTP/AVP 0 12\nm=video 3227 RTP/AVP 31\na=rtpmap:31 LPC\n"
)


def _wire(head: str, body: str = "", *, length: int | None = None) -> bytes:
    content = body.replace("\n", "\r\n").encode()
    head = head.strip("\n").replace("{n}", str(len(content) if length is None else length))
    return head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + content


def _request(method: str, uri: str = "sip:user@example.com", *extra: str, **instead: str) -> str:
    """A plain request; ``instead`` puts other values in the place of its fields, "" none at all."""
    fields = {
        "Via": "SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bKkdjuw",
        "Max-Forwards": "70",
        "From": "<sip:caller@example.com>;tag=98asjd8",
        "To": "<sip:user@example.com>",
        "Call-ID": f"{method.lower()}.torture@192.0.2.1",
        "CSeq": f"8 {method}",
        "Contact": "<sip:caller@192.0.2.1>",
    }
    fields |= {name.replace("_", "-"): value for name, value in instead.items()}
    lines = [f"{method} {uri} SIP/2.0", *(f"{name}: {value}" for name, value in fields.items() if value), *extra]
    return "\n".join(lines)


_OFFERED = ("Content-Type: application/sdp", "Content-Length: {n}")
_LONG = "extreme" * 20

VALID: dict[str, bytes] = {
    "wsinv": _wire(
        """
INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0
TO :
 sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n
from   : "J Rosenberg \\\\\\""       <sip:jdrosen@example.com>
  ;
  tag = 98asjd8
MaX-fOrWaRdS: 0068
Call-ID: wsinv.ndaksdj@192.0.2.1
Content-Length   : {n}
cseq: 0009
  INVITE
Via  : SIP  /   2.0
 /UDP
    192.0.2.2;rport;branch=390skdjuw
s :
NewFangledHeader:   newfangled value
 continued newfangled value
UnknownHeaderWithUnusualValue: ;;,,;;,;
Content-Type: application/sdp
Route:
 <sip:services.example.com;lr;unknownwith=value;unknown-no-value>
v:  SIP  / 2.0  / TCP     spindle.example.com   ;
  branch  =   z9hG4bK9ikj8  ,
 SIP  /    2.0   / UDP  192.168.255.111   ; branch=
 z9hG4bK30239
m:"Quoted string \\"\\"" <sip:jdrosen@example.com> ; newparam =
      newvalue ;
  secondparam ; q = 0.33
""",
        _SDP,
    ),
    "intmeth": _wire(
        _request(
            "!interesting-Method0123456789_*+`.%indeed'~",
            "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com",
            "extensionHeader-!.%*+_`'~: \ufeff\u5927\u505c\u96fb",
            To='"BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <sip:1_unusual.URI~(to-be!sure)&isn\'t+it$/crazy?,/;;*@example.com>',
            From="token1~` token2'+_ token3*%!.- <sip:mundane@example.com>;fromParam''~+*_!.-%="
            '"\u0440\u0430\u0431\u043e\u0442\u0430\u044e\u0449\u0438\u0439";tag=_token~1\'+`*%!-.',
            Call_ID="intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{",
            CSeq="139122385 !interesting-Method0123456789_*+`.%indeed'~",
        )
    ),
    "esc01": _wire(
        _request(
            "INVITE", "sip:sips%3Auser%40example.com@example.net", *_OFFERED, Contact="<sip:cal%6Cer@192.0.2.1;%6C>"
        ),
        _SDP,
    ),
    "escnull": _wire(
        _request(
            "REGISTER",
            "sip:example.com",
            "Contact: <sip:%00@host5.example.com>",
            Contact="<sip:%00%00@host5.example.com>",
        )
    ),
    "esc02": _wire(_request("RE%47IST%45R", "sip:registrar.example.com", To='"%Z%45" <sip:resource@example.com>')),
    "lwsdisp": _wire(_request("OPTIONS", From="caller<sip:caller@example.com>;tag=323")),
    "longreq": _wire(
        _request(
            "INVITE",
            "sip:user@example.com",
            "Unknown-" + "Long" * 20 + "-Name: unknown-" + "long" * 40 + "-value",
            *(f"Via: SIP/2.0/TCP sip{n}.example.com" for n in range(34)),
            *_OFFERED,
            To=f'"I have a user name of {_LONG} proportion" <sip:user@example.com:6000;unknown=very{"long" * 10}value>',
            From=f"sip:amazinglylongcallername@example.net;tag=12{'982' * 50}424;unknown{'name' * 15}=x{'value' * 15}",
            Call_ID=f"longreq.one{'really' * 20}longcallid",
            Contact=f"<sip:amazinglylongcallername@host5.example.net:5060;unknown{'long' * 30}=x>",
        ),
        _SDP,
    ),
    "dblreq": _wire(_request("REGISTER", "sip:example.com", "Content-Length: 0"))
    + _wire(_request("INVITE", "sip:joe@example.com", *_OFFERED, Call_ID="dblreq.second"), _SDP),
    "semiuri": _wire(_request("OPTIONS", "sip:user;par=u%40example.net@example.com", Accept="application/sdp")),
    "transports": _wire(
        _request(
            "OPTIONS",
            "sip:user@example.com",
            "Via: SIP/2.0/SCTP t2.example.com;branch=z9hG4bKklasjdhf",
            "Via: SIP/2.0/TLS t3.example.com;branch=z9hG4bK2980unddj",
            "Via: SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKasd0f3en",
            "Via: SIP/2.0/TCP t5.example.com;branch=z9hG4bK0a9idfnee",
        )
    ),
    "mpart01": _wire(
        _request(
            "MESSAGE",
            "sip:kumiko@example.org",
            "Content-Type: multipart/mixed;boundary=7a9cbec02ceef655",
            "Content-Length: {n}",
        ),
        "--7a9cbec02ceef655\nContent-Type: text/plain\n\nHello\n--7a9cbec02ceef655--\n",
    ),
    "regbadct": _wire(
        _request("REGISTER", "sip:example.com", Contact="sip:user@example.com?Route=%3Csip:sip.example.com%3E")
    ),
    "baddate": _wire(_request("OPTIONS", "sip:user@example.com", "Date: Fri, 01 Jan 2010 16:00:00 EST")),
    "trws": _wire(_request("OPTIONS", "sip:remote-target@example.com").replace(" SIP/2.0\n", " SIP/2.0  \n", 1)),
    "baddn": _wire(
        _request("OPTIONS", "sip:t.watson@example.org", From="Bell, Alexander <sip:a.g.bell@example.com>;tag=43")
    ),
    "unksm2": _wire(
        _request(
            "REGISTER",
            "sip:example.com",
            To="isbn:2983792873",
            From="<http://www.example.com>;tag=3234233",
            Contact="<name:John_Smith>",
        )
    ),
    "invut": _wire(
        _request("INVITE", "sip:user@example.com", "Content-Type: application/unknownformat", "Content-Length: {n}"),
        '<audio>\n <pcmu port="443"/>\n</audio>\n',
    ),
    "regaut01": _wire(_request("REGISTER", "sip:example.com", "Authorization: NoOneKnowsThisScheme opaque-data=here")),
    "zeromf": _wire(_request("OPTIONS", Max_Forwards="0")),
    "cparam01": _wire(_request("REGISTER", "sip:example.com", Contact="sip:+19725552222@gw1.example.net;unknownparam")),
    "cparam02": _wire(
        _request("REGISTER", "sip:example.com", Contact="<sip:+19725552222@gw1.example.net;unknownparam>")
    ),
    "regescrt": _wire(
        _request("REGISTER", "sip:example.com", Contact="<sip:user@example.com?Route=%3Csip:sip.example.com%3E>")
    ),
    "sdp01": _wire(_request("INVITE", "sip:user@example.com", "Accept: text/nobodyKnowsThis", *_OFFERED), _SDP),
    "inv2543": _wire(
        """
INVITE sip:UserB@example.com SIP/2.0
Via: SIP/2.0/UDP iftgw.example.com;rport
From: <sip:+13035551111@ift.client.example.net;user=phone>
Record-Route: <sip:UserB@example.com;maddr=ss1.example.com>
To: sip:+16505552222@ss1.example.net;user=phone
Call-ID: inv2543.1717@ift.client.example.com
CSeq: 56 INVITE
Content-Type: application/sdp
""",
        "v=0\no=faxgw1 2890844527 2890844527 IN IP4 iftgw.example.com\ns=Session SDP\nc=IN IP4 ift.mg.example.com\n"
        "t=0 0\nm=audio 49388 RTP/AVP 0\n",
    ),
    "bext01": _wire(
        _request(
            "OPTIONS",
            "sip:user@example.com",
            "Require: nothingSupportsThis, nothingSupportsThisEither",
            "Proxy-Require: noProxiesSupportThis, norDoAnyProxiesSupportThis",
        )
    ),
}

BROKEN: dict[str, bytes] = {
    "badinv01": _wire(
        _request(
            "INVITE",
            "sip:user@example.com",
            *_OFFERED,
            Via="SIP/2.0/UDP 192.0.2.15;;,;,,",
            Contact='"Joe" <sip:joe@example.org>;;;;',
        ),
        _SDP,
    ),
    "badinv01-contact": _wire(
        _request("INVITE", "sip:user@example.com", *_OFFERED, Contact='"Joe" <sip:joe@example.org>;;;;'), _SDP
    ),
    "clerr": _wire(_request("INVITE", "sip:user@example.com", *_OFFERED), _SDP, length=9999),
    "ncl": _wire(_request("INVITE", "sip:user@example.com", *_OFFERED), _SDP, length=-999),
    "scalar02": _wire(
        _request(
            "REGISTER",
            "sip:example.com",
            CSeq="36893488147419103232 REGISTER",
            Max_Forwards="300",
            Expires="10000000000",
        )
    ),
    "quotbal": _wire(
        _request("INVITE", "sip:user@example.com", *_OFFERED, To='"Mr. J. User <sip:j.user@example.com>'), _SDP
    ),
    "ltgtruri": _wire(_request("INVITE", "<sip:user@example.com>", *_OFFERED), _SDP),
    "lwsruri": _wire(_request("INVITE", "sip:user@example.com; lr", *_OFFERED), _SDP),
    "lwsstart": _wire(_request("INVITE", " sip:user@example.com ", *_OFFERED), _SDP),
    "escruri": _wire(_request("INVITE", "sip:user@example.com?Route=%3Csip:example.com%3E", *_OFFERED), _SDP),
    "badaspec": _wire(_request("OPTIONS", To='"Watson, Thomas" < sip:t.watson@example.org >')),
    "badvers": _wire(_request("OPTIONS", Via="SIP/7.0/UDP c.example.com;rport;branch=z9hG4bKkdjuw")).replace(
        b"SIP/2.0\r\n", b"SIP/7.0\r\n", 1
    ),
    "mismatch01": _wire(_request("OPTIONS", CSeq="8 INVITE")),
    "mismatch02": _wire(_request("NEWMETHOD", CSeq="9 INVITE")),
    "insuf": _wire(_request("INVITE", "sip:user@example.com", *_OFFERED, Call_ID="", From="", To=""), _SDP),
    "unkscm": _wire(_request("OPTIONS", "nobodyKnowsThisScheme:totallyopaquecontent")),
    "novelsc": _wire(_request("OPTIONS", "soap.beep://192.0.2.103:3002")),
    "multi01": _wire(
        _request(
            "INVITE",
            "sip:user@example.com",
            "CSeq: 59 INVITE",
            "Call-ID: multi01.second",
            "From: <sip:other@example.net>;tag=2",
            "To: <sip:second@example.com>",
            "Max-Forwards: 5",
            *_OFFERED,
        ),
        _SDP,
    ),
    "mcl01": _wire(
        _request("OPTIONS", "sip:user@example.com", "Content-Length: 13", "Content-Length: 5"), "There's no way"
    ),
    "no-colon": b"OPTIONS sip:a@b SIP/2.0\r\nVia SIP/2.0/UDP x\r\n\r\n",
    "not-utf-8": _wire(_request("OPTIONS")).replace(b"caller", b"\xff\xfe"),
    "fold-first": b"OPTIONS sip:a@b SIP/2.0\r\n Via: SIP/2.0/UDP x\r\n\r\n",
}

RESPONSES: dict[str, bytes] = {
    "unreason": _wire(
        "SIP/2.0 200 = 2**3 * 5**2 \u043d\u043e \u0441\u0442\u043e \u0434\u0435\u0432\u044f\u043d\u043e\n"
        + "\n".join(_request("INVITE").split("\n")[1:])
    ),
    "noreason": _wire("SIP/2.0 100 \n" + "\n".join(_request("INVITE").split("\n")[1:])),
    "bigcode": _wire(
        "SIP/2.0 4294967301 better not break the receiver\n" + "\n".join(_request("INVITE").split("\n")[1:])
    ),
    "scalarlg": _wire(
        "SIP/2.0 503 Service Unavailable\n"
        + "\n".join(_request("INVITE", CSeq="9292394834772304023312 OPTIONS").split("\n")[1:])
    ),
    "bcast": _wire(
        "SIP/2.0 200 OK\n"
        + "\n".join(_request("INVITE", Via="SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923").split("\n")[1:])
        + "\nVia: SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1saber23"
    ),
}

BADBRANCH = _wire(_request("OPTIONS", Via="SIP/2.0/UDP 192.0.2.1;rport;branch=z9hG4bK"))
