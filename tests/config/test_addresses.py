"""The addresses an operator writes."""

from collections.abc import Callable

import pytest

from config.addresses import check_http_listen, check_ip, check_listen, check_worker_url, parse_network

RIGHT = [
    (check_ip, ["127.0.0.1", "::1", "2001:db8::1"]),
    (check_listen, ["udp:0.0.0.0:5060", "tcp:[::]:5060", "udp:127.0.0.1:0"]),
    (check_http_listen, ["127.0.0.1:8080", "[::1]:80", "localhost:8080", "gateway.example.com:1"]),
    (check_worker_url, ["ws://h:1", "wss://h.example.com/path", "ws://[::1]:8300", "ws://10.0.0.5:8300/"]),
]
WRONG = [
    (check_ip, ["", "localhost", "1.2.3", "1.2.3.4/8"]),
    (check_listen, ["", "0.0.0.0:5060", "udp:0.0.0.0", "udp:0.0.0.0:65536", "udp:::5060", "tls:0.0.0.0:1", "udp:h:1"]),
    (check_http_listen, ["8080", ":8080", "h:", "h:x", "::1:80", "[x]:1", "a b:1", "h:٣"]),
    (check_worker_url, ["h:1", "http://h", "ws://", "ws://h:99999", "ws://u@h", "ws://h?q", "ws://h /", "ws://[::1"]),
]


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in RIGHT for text in texts])
def test_a_right_address_is_kept(check: Callable[[str], str], text: str) -> None:
    """What is right is kept as written."""
    assert check(text) == text


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in WRONG for text in texts])
def test_a_wrong_address_is_explained(check: Callable[[str], str], text: str) -> None:
    """What is wrong is shown together with an example of what would be right."""
    with pytest.raises(ValueError, match=r"must be .*e\.g\. ") as caught:
        check(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "x", "300.0.0.0/8", None, 7.5, []])
def test_a_wrong_network_is_explained(text: object) -> None:
    """A network with host bits set, or anything else, is a ValueError."""
    with pytest.raises(ValueError, match="must be an IP address or a network"):
        parse_network(text)
