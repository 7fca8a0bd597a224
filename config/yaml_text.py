"""A YAML file as a tree of PyYAML nodes, bounded in size and depth, with faults in an operator's words.

The file may come from anyone: nothing in it makes Denwa run code, recurse without end or take more than
its megabyte. Reads files, nothing else.
"""

import re
from pathlib import Path
from typing import Any, Final

import yaml

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unreadable(Exception):
    """The file cannot be read beyond ``line``; the message says why and what would be right."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_text(path: Path) -> str:
    """A file's text, UTF-8 with or without a byte order mark. Raises Unreadable."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Unreadable(1, "there is no such file") from None
    except (OSError, ValueError) as error:
        raise Unreadable(1, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > MAX_BYTES:
        raise Unreadable(1, f"is longer than {MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(raw.count(b"\n", 0, error.start) + 1, "is not UTF-8 text; save it as UTF-8") from None


def compose(text: str) -> yaml.Node | None:
    """The tree of the text's one document; None where it holds none. Raises Unreadable."""
    try:
        _check_depth(text)
        loader = _LOADER(text)
        try:
            node: yaml.Node | None = loader.get_single_node()
            return node
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _in_words(error, text) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise Unreadable(1, "is not YAML: " + " ".join(str(error).split())) from None


def _check_depth(text: str) -> None:
    """Look at the depth before the tree is made: making it recurses, this does not."""
    depth = 0
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                mark: Any = event.start_mark
                raise Unreadable(mark.line + 1, f"is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _in_words(error: yaml.MarkedYAMLError, text: str) -> Unreadable:
    mark: Any = error.problem_mark or error.context_mark
    line = int(mark.line) if mark else 0
    rows = text.split("\n")
    near = rows[max(line - 1, 0) : line + 1]
    if any(re.match(r" *\t", row) for row in near):
        return Unreadable(line + 1, "a tab cannot indent YAML; use spaces")
    problem = str(error.problem or error.context or "no YAML")
    hint = ""
    if "expected a single document" in str(error.context):
        problem, hint = "a second document begins", "; a file holds one, without ---"
    elif "mapping values are not allowed" in problem:
        hint = "; put text that holds ': ' in quotes"
    elif any(re.search(r"[\[{,].*\$\{", row) for row in near):
        hint = '; between [ ] or { } a reference needs quotes: "${NAME}"'
    elif "could not find expected ':'" in problem:
        hint = "; a key is followed by a colon and a space"
    return Unreadable(line + 1, f"is not YAML here: {problem}{hint}")
