from pathlib import Path

from model_runtime.text import EPAD, TextTokenizer
from model_runtime.training.synthetic.script import World
from model_runtime.training.vocabulary import MARKS, train_words


def test_every_word_is_one_piece(tmp_path: Path) -> None:
    """All that the front desk says is a token per word and comes back as it was; what it never says is EPAD."""
    world = World.load()
    tokenizer = TextTokenizer(train_words(world.agent_words, tmp_path / "words.model"))
    assert tokenizer.vocab_size == MARKS + len(world.agent_words)
    for text in world.agent_texts:
        tokens = tokenizer.encode(text)
        assert len(tokens) == len(text.split())
        assert "".join(map(tokenizer.piece, tokens)).strip() == text
    assert tokenizer.encode("Zebra") == [EPAD]


def test_the_same_words_give_the_same_file(tmp_path: Path) -> None:
    """So a chain that is made anew comes to the same checkpoint."""
    files = [train_words(["Hello", "there.", "Hello"], tmp_path / name) for name in ("a.model", "b.model")]
    assert files[0].read_bytes() == files[1].read_bytes()
