"""What may stand in a value in place of text: ``${NAME}``, ``${NAME:-default}``, ``${file:/path}``, ``$${``.

The environment is a parameter; nothing here reads ``os.environ``. Pure but for ``${file:...}``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_REFERENCE: Final = re.compile(
    r"\$\$\{"  # an escaped one
    r"|\$\{file:(?P<file>[^{}]+)\}"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}"
    r"|(?P<malformed>\$\{[^}]*\}?)"
)
_MAX_FILE_BYTES: Final = 65_536


class ReferenceFault(ValueError):
    """A reference that cannot be resolved; the message says what would be right and never shows a value."""


def refers(text: str) -> bool:
    """Whether the text holds a reference, so that its value must not be shown to anyone."""
    return any(match.group() != "$${" for match in _REFERENCE.finditer(text))


def substitute(text: str, env: Mapping[str, str]) -> str:
    """Put environment variables and the contents of files in place of the references to them.

    A variable that is set but empty counts as unset where a default is given, as in a shell. What is put
    in is not looked at again. Raises ReferenceFault.
    """
    return _REFERENCE.sub(lambda match: _resolve(match, env), text)


def _resolve(match: re.Match[str], env: Mapping[str, str]) -> str:
    name, default, path = match["name"], match["default"], match["file"]
    if match["malformed"] is not None:
        raise ReferenceFault(
            f"{match['malformed']!r} is no reference; write ${{NAME}}, ${{NAME:-default}} or ${{file:/path}}, "
            "or $${ for the characters themselves"
        )
    if path is not None:
        return _contents(path)
    if name is None:
        return "${"
    value = env.get(name)
    if default is not None:
        return value or default
    if value is None:
        raise ReferenceFault(f"environment variable {name} is not set; set it, or write ${{{name}:-default}}")
    return value


def _contents(name: str) -> str:
    """The text of a small regular file, without the newline at its end."""
    path = Path(name)
    try:
        if not path.is_file():
            raise ReferenceFault(f"{name!r} is not a file; name the file that holds the value")
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
        if len(raw) > _MAX_FILE_BYTES:
            raise ReferenceFault(f"{name!r} is longer than {_MAX_FILE_BYTES} bytes; a value is one short line")
        return raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ReferenceFault(f"{name!r} is not UTF-8 text") from None
    except OSError as error:
        raise ReferenceFault(f"{name!r} cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, ReferenceFault):
            raise
        raise ReferenceFault(f"{name!r} is no file name") from None  # an embedded null character
