"""What holds for the repository as a whole."""

import re
import tomllib
from pathlib import Path

from tests.conftest import PEERS

ROOT = Path(__file__).parents[1]


def test_make_installs_every_peer() -> None:
    """Each program that tests name as a far end is one that ``make test`` installs, from the same package."""
    line = re.search(r"^PEERS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line is not None
    installed = dict(pair.split("=") for pair in line[1].split())
    assert installed.items() >= PEERS.items()


def test_every_folder_is_in_the_image() -> None:
    """The Dockerfile copies, and Docker's build context has, each package that pyproject.toml installs."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    context = (ROOT / ".dockerignore").read_text().splitlines()
    assert all(f"COPY {name} ./{name}" in dockerfile and f"!{name}" in context for name in packages)


def test_the_image_is_safe_by_default() -> None:
    """The last stage of the Dockerfile builds nothing, runs as a user without privileges and says how healthy it is."""
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    assert len(stages) >= 2
    assert re.search(r"^USER [1-9][0-9]*$", stages[-1], re.MULTILINE)
    assert "HEALTHCHECK" in stages[-1]
    assert "pip install" not in stages[-1]
