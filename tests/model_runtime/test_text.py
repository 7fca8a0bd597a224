from pathlib import Path

import pytest

from model_runtime.errors import CheckpointError
from model_runtime.text import EPAD, PAD, TextTokenizer
from model_runtime.tiny import TOKENIZER


def test_pieces_join_to_the_text() -> None:
    """The pieces of a text's ids, joined, are the text, with a space before each word."""
    tokenizer = TextTokenizer(TOKENIZER)
    ids = tokenizer.encode("Thank you for calling.")
    assert "".join(tokenizer.piece(token) for token in ids) == " Thank you for calling."


@pytest.mark.parametrize("token", [EPAD, 1, 2, PAD, -1, -2, 320, 32_000])
def test_marks_and_strangers_show_nothing(token: int) -> None:
    """Padding, sentence marks and ids outside the vocabulary add nothing to a transcript."""
    assert TextTokenizer(TOKENIZER).piece(token) == ""


def test_unreadable_model_is_named(tmp_path: Path) -> None:
    """A missing or broken tokenizer file is a CheckpointError that names it."""
    broken = tmp_path / "broken.model"
    broken.write_bytes(b"not a model")
    for path in (broken, tmp_path / "missing.model"):
        with pytest.raises(CheckpointError, match=path.name):
            TextTokenizer(path)
