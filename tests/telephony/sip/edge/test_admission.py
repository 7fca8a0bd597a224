"""Limits on calls, in total, per source and per second."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.schema import SipRateLimit, SipSettings
from telephony.sip.edge.admission import Admission, Refused, TokenBuckets


def test_bucket_refills_with_time() -> None:
    """A burst is taken at once, then one request per 1/per_s seconds."""
    buckets = TokenBuckets(SipRateLimit(per_s=2.0, burst=2))
    assert [buckets.take("a", at) for at in (0.0, 0.0, 0.0, 0.4, 0.6, 0.7, 100.0, 100.0, 100.0)] == [
        *(True, True, False, False, True, False, True, True, False)
    ]


def test_sources_have_buckets_of_their_own_in_a_bounded_table() -> None:
    """One source's flood costs another nothing; the table forgets the longest unheard of."""
    buckets = TokenBuckets(SipRateLimit(per_s=1.0, burst=1), max_sources=3)
    assert buckets.take("a", 0.0)
    assert not buckets.take("a", 0.0)
    assert all(buckets.take(name, 0.0) for name in "bcd")
    assert len(buckets) == 3


@given(st.lists(st.floats(0, 10), max_size=200))
def test_bucket_never_gives_more_than_burst_and_rate(times: list[float]) -> None:
    """Over any time, no more than burst plus rate times time is taken."""
    buckets = TokenBuckets(SipRateLimit(per_s=3.0, burst=5))
    taken = sum(buckets.take("a", at) for at in sorted(times))
    assert taken <= 5 + 3.0 * 10 + 1e-6


def test_calls_are_counted_in_total_and_per_source() -> None:
    """Either limit refuses with Retry-After; the end of a call makes room."""
    admission = Admission(SipSettings(max_calls=3, max_calls_per_source=2, retry_after_s=9))
    admission.begin("a")
    admission.begin("a")
    with pytest.raises(Refused) as caught:
        admission.begin("a")
    assert (caught.value.status, caught.value.retry_after_s) == (503, 9)
    admission.begin("b")
    with pytest.raises(Refused):
        admission.begin("c")
    admission.end("a")
    admission.begin("c")
    assert admission.calls == 3


def test_allow_list() -> None:
    """Addresses of the allowed networks are heard, IPv4 in IPv6 clothes too, others and names are not."""
    admission = Admission(SipSettings())
    heard = ["127.0.0.1", "192.168.3.4", "::ffff:10.0.0.1"]
    assert all(admission.allows(address) for address in heard)
    assert not any(admission.allows(address) for address in ["8.8.8.8", "::1", "name", ""])
