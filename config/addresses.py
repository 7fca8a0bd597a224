"""The addresses an operator writes: checked while the configuration is read, kept as written.

Every check returns its argument or raises ``ValueError`` with what would be right. Pure.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")


def check_ip(text: str) -> str:
    """An IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        raise ValueError(f"must be an IP address, e.g. 203.0.113.7; got {text!r}") from None
    return text


def parse_network(value: Any) -> IPv4Network | IPv6Network:
    """An IP address or a network in CIDR form (RFC 4632)."""
    if isinstance(value, (IPv4Network, IPv6Network)):
        return value
    try:
        return ip_network(value)
    except (ValueError, TypeError):
        pass
    try:
        meant = f"; the network is {ip_network(value, strict=False)}"
    except (ValueError, TypeError):
        meant = ""
    raise ValueError(f"must be an IP address or a network, e.g. 192.0.2.7 or 192.0.2.0/24; got {value!r}{meant}")


def check_listen(text: str) -> str:
    """Where SIP is heard: ``udp:ADDRESS:PORT`` or ``tcp:ADDRESS:PORT``, IPv6 addresses in brackets."""
    transport, _, rest = text.partition(":")
    host, port = _split(rest)
    try:
        if transport in ("udp", "tcp") and port is not None and ip_address(host):
            return text
    except ValueError:
        pass
    raise ValueError(f"must be udp:ADDRESS:PORT or tcp:ADDRESS:PORT, e.g. udp:0.0.0.0:5060; got {text!r}")


def check_http_listen(text: str) -> str:
    """Where HTTP is heard: ``HOST:PORT``, IPv6 addresses in brackets."""
    host, port = _split(text)
    if port is None or not (_HOST.fullmatch(host) or ":" in host):
        raise ValueError(f"must be HOST:PORT, e.g. 127.0.0.1:8080; got {text!r}")
    return text


def check_worker_url(text: str) -> str:
    """A model worker's address: ``ws://HOST:PORT`` or ``wss://HOST:PORT`` (RFC 6455 section 3)."""
    try:
        url = urlsplit(text)
        right = url.scheme in ("ws", "wss") and bool(url.hostname) and url.port != 0
        right = right and not (url.query or url.fragment or url.username) and not re.search(r"\s", text)
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"must be ws://HOST:PORT or wss://HOST:PORT, e.g. ws://10.0.0.5:8300; got {text!r}")
    return text


def check_http_url(text: str) -> str:
    """A web server's address: ``http://`` or ``https://``; ``{NAME}`` may stand for a variable after the host."""
    try:
        url = urlsplit(text)
        right = url.scheme in ("http", "https") and bool(_HOST.fullmatch(url.hostname or "") or ":" in url.netloc)
        right = right and url.port != 0 and not url.fragment and not re.search(r"\s", text)
        right = right and bool(url.hostname) and "{" not in url.netloc
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"must be http://HOST/PATH or https://HOST/PATH; got {text!r}")
    return text


def check_transfer_target(text: str) -> str:
    """Whom a caller is handed over to: a SIP URI without header fields (RFC 3261 section 19.1)."""
    if not re.fullmatch(r"sips?:([^\s@<>\"?]+@)?[A-Za-z0-9.\-\[\]:]+(;[^\s<>\"?]+)?", text):
        raise ValueError(f"must be a SIP URI, e.g. sip:200@pbx.example.com; got {text!r}")
    return text


def check_database_url(text: str) -> str:
    """Where records are stored: ``sqlite:///PATH`` or ``postgresql://USER:PASSWORD@HOST/NAME``; never shown back."""
    scheme, _, rest = text.partition("://")
    right = (scheme == "sqlite" and rest.startswith("/") and len(rest) > 1) or (
        scheme == "postgresql" and bool(re.fullmatch(r"[^\s/]+/[^\s/]+", rest))
    )
    if not right:
        raise ValueError("must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME")
    return text


def is_loopback(listen: str) -> bool:
    """Whether ``HOST:PORT`` is heard by this machine alone."""
    host, _ = _split(listen)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _split(text: str) -> tuple[str, int | None]:
    """Host without brackets, and port; the port is None where the text has no valid one."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        return host, None
    if host.startswith("[") and host.endswith("]"):
        inner = host[1:-1]
        try:
            return (inner, int(port)) if ip_address(inner).version == 6 else (host, None)
        except ValueError:
            return host, None
    return host, (int(port) if ":" not in host else None)
