"""agent/store/call_record.py."""

import os
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from agent.store.call_record import CallRecord
from tests.agent.store.records import begun, ended


def test_a_record_survives_json() -> None:
    """What is read back is what was written, types included."""
    record = ended(7)
    again = CallRecord.model_validate_json(record.model_dump_json())
    assert again == record
    assert [type(value) for value in again.rtp.values()] == [int, float]


def test_times_are_utc() -> None:
    """A time in another zone becomes UTC; one without a zone is refused."""
    tokyo = datetime(2026, 3, 1, 21, 0, tzinfo=timezone(timedelta(hours=9)))
    assert begun(1, started_at=tokyo).started_at == datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    assert begun(1, started_at=tokyo).started_at.tzinfo is UTC
    with pytest.raises(ValidationError):
        begun(1, started_at=datetime(2026, 3, 1, 12, 0))


def test_what_databases_refuse_is_made_storable() -> None:
    """NUL, half characters, NaN and endless names do not cost the record."""
    record = begun(
        1,
        caller="\0" + "9" * 5_000,
        variables={"\ud800": "a\0b"},
        rtp={"jitter_ms": float("nan"), "lost": 1},
        actions=[{"name": "x", "value": float("inf"), "detail": ("\udfff", {1: object})}],
    )
    assert record.caller == "\ufffd" + "9" * 254
    assert record.variables == {"\ufffd": "a\ufffdb"}
    assert record.rtp == {"lost": 1}
    assert record.actions == [{"name": "x", "value": None, "detail": ["\ufffd", {"1": str(object)}]}]
    assert CallRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("call_id", ["", "../x", "a.b", "a/b", "x" * 65])
def test_an_id_is_fit_for_a_file_name(call_id: str) -> None:
    """Ids that would leave the spool or confuse its endings are refused."""
    with pytest.raises(ValidationError):
        begun(1, id=call_id)


def test_paths_mean_the_same_everywhere() -> None:
    """A relative path is kept as an absolute one."""
    assert begun(1, recording="var/x.flac").recording == os.path.abspath("var/x.flac")


def test_changed_checks_like_new() -> None:
    """A copy with other values is validated, and the record itself is frozen."""
    record = begun(1)
    assert record.changed(result="failed").result == "failed"
    with pytest.raises(ValidationError):
        record.changed(result="splendid")
    with pytest.raises(ValidationError):
        record.result = "failed"  # type: ignore[misc]


def test_duration_counts_from_the_answer() -> None:
    """It is known of answered calls that have ended."""
    assert ended(1).duration_s == 61.25
    assert ended(1, answered_at=None).duration_s is None
    assert begun(1).duration_s is None


def test_whose_call_it_is() -> None:
    """The caller's of an inbound call; of an outbound one also the number's that was called."""
    assert begun(1).is_of("+4930000001")
    assert not begun(1).is_of("+493000000")
    assert not begun(1).is_of("100")
    assert begun(1, direction="outbound").is_of("100")
