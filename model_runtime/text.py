"""The text tokenizer: ids of the inner monologue to the pieces a transcript shows. Used by the engine thread."""

from pathlib import Path
from typing import Final

import sentencepiece

from model_runtime.errors import CheckpointError

EPAD: Final = 0
"""Ends padding: a word follows."""
PAD: Final = 3
"""Nothing is said in this frame."""


class TextTokenizer:
    """A sentencepiece model with Moshi's arrangement of ids: 0 EPAD, 1 BOS, 2 EOS, 3 PAD."""

    def __init__(self, path: Path) -> None:
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{path}: no sentencepiece model can be read here: {error}") from error

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        size: int = self._model.vocab_size()
        return size

    def piece(self, token: int) -> str:
        """What a token adds to the transcript, with its leading space; empty for padding and other marks."""
        if not PAD < token < self.vocab_size:
            return ""
        piece: str = self._model.id_to_piece(token)
        return piece.replace("\u2581", " ")

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that no piece stands for, each once; a tokenizer of smaller pieces knows nearly all."""
        unknown = [self._model.unk_id()]
        return [word for word in dict.fromkeys(text.split()) if self.encode(word) == unknown]

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = self._model.encode(text)
        return ids
