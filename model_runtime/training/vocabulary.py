"""A text tokenizer whose pieces are whole words: all that an agent of a small world ever says. Owns no model."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

import sentencepiece

MARKS: Final = 4
"""EPAD, BOS, EOS and PAD, before the words."""


def train_words(words: Sequence[str], path: Path) -> Path:
    """Write a sentencepiece model of ``words``, with their punctuation, each one piece; ids as in ``TextTokenizer``.

    Words it does not have are read as EPAD, and said by nobody.
    """
    known = list(dict.fromkeys(words))
    written = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(known),
        model_writer=written,
        model_type="word",
        vocab_size=MARKS + len(known),
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        num_threads=1,
        minloglevel=2,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(written.getvalue())
    return path
