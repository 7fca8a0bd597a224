"""What can be wrong with a configuration.

    ConfigError                the operator's files cannot be used; carries every finding at once

A finding is one fault at one place. Pure values, used by every process that reads a configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong at one place: where, which key, and in words what is wrong and what would be right."""

    file: str
    line: int
    key: str  # "routes[0].agent"; empty for the file as a whole
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        """``file:line: key: message``, as compilers write it, so that editors can jump there."""
        key = f"{self.key}: " if self.key else ""
        note = "warning: " if self.severity == "warning" else ""
        return f"{self.file}:{self.line}: {note}{key}{self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; ``findings`` holds every fault, in the order of the files."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = tuple(findings)
