"""config/redaction.py: what is found, and what is not."""

import pytest

from config.redaction import PATTERNS, Redactor


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("card_number", "my card is 4111 1111 1111 1111 thanks", "my card is [card_number] thanks"),
        ("card_number", "4111-1111-1111-1111.", "[card_number]."),
        (
            "card_number",
            "it is four one one one, one one one one, one one one one, one one one one",
            "it is [card_number]",
        ),
        ("card_number", "room 4111, at 11:11", "room 4111, at 11:11"),
        ("email", "write to anna.smith+x@example.co.uk please", "write to [email] please"),
        ("email", "anna at example dot com", "[email]"),
        ("iban", "DE89 3704 0044 0532 0130 00 it is", "[iban] it is"),
        ("phone", "call +49 30 1234567 now", "call [phone] now"),
        ("phone", "call oh three oh one two three four five six", "call [phone]"),
        ("phone", "open from 9 to 17", "open from 9 to 17"),
        ("ssn", "078-05-1120", "[ssn]"),
    ],
)
def test_what_is_named_is_blackened(kind: str, text: str, expected: str) -> None:
    """Digits in any grouping and in words; ordinary numbers stay."""
    assert Redactor([kind]).redact(text) == expected


def test_own_patterns_and_overlaps() -> None:
    """A pattern of the operator's, case ignored; spans that overlap are one."""
    redactor = Redactor(["phone", "card_number"], {"customer": "C-[0-9]{6}"})
    assert redactor.redact("c-123456 and C-12345") == "[customer] and C-12345"
    assert [(start, end) for start, end, _ in redactor.spans("x 4111 1111 1111 1111 y")] == [(2, 21)]


def test_an_empty_one_changes_nothing() -> None:
    """Nothing is redacted unless it is asked for."""
    assert not Redactor()
    assert Redactor().redact("4111 1111 1111 1111") == "4111 1111 1111 1111"
    assert all(Redactor([kind]) for kind in PATTERNS)
