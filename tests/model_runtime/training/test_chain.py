import json
from pathlib import Path

import pytest

from model_runtime.training.chain import ChainError, Made, digest_of, make


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    """A folder that came to its end is kept; one that did not is built again; the digest is the same."""
    built: list[int] = []

    def build() -> None:
        built.append(1)
        if len(built) == 1:
            raise OSError("interrupted")

    def attempt() -> Made:
        return make(tmp_path / "store", {"callers": 3, "shape": (1, 2)}, {"codec": "abc"}, build)

    with pytest.raises(OSError, match="interrupted"):
        attempt()
    assert attempt() == attempt()
    assert len(built) == 2


def test_what_was_made_of_something_else_is_kept(tmp_path: Path) -> None:
    """Other settings, or another thing that it was made from, are refused by name; each has its own digest."""
    first = make(tmp_path / "store", {"callers": 3}, {"codec": "abc"}, lambda: None)
    for settings, needed in (({"callers": 4}, {"codec": "abc"}), ({"callers": 3}, {"codec": "def"})):
        with pytest.raises(ChainError, match="store: made with other settings"):
            make(tmp_path / "store", settings, needed, lambda: None)
        assert make(tmp_path / json.dumps(needed), settings, needed, lambda: None).digest != first.digest


def test_a_digest_tells_files_apart(tmp_path: Path) -> None:
    """It depends on what files hold, not on their names."""
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(text)
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b") != digest_of(tmp_path / "c")
