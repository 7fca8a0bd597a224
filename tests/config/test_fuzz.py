"""Any bytes at all in denwa.yaml and an agent's file: settings or ConfigError, nothing else."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.errors import ConfigError, Finding
from config.load import default_path, load

KEYS = [
    "sip",
    "models",
    "agents",
    "routes",
    "trunks",
    "listen",
    "allow",
    "rtp_ports",
    "first",
    "kind",
    "agent",
    "<<",
    "a",
]
WORDS = st.one_of(
    st.sampled_from(["${A}", "${A:-b}", "${file:/x}", "$${", "&a", "*a", "echo", "10", "-1", "1e999", "nan"]), st.text()
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(WORDS, st.none(), st.integers(), st.floats(), st.booleans(), st.dates()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=6),
    max_leaves=20,
)
WRITTEN = default_path().read_bytes()


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """The default configuration with a piece of it replaced."""
    begin = draw(st.integers(0, len(WRITTEN)))
    end = draw(st.integers(begin, min(begin + 60, len(WRITTEN))))
    return WRITTEN[:begin] + draw(st.binary(max_size=8) | st.text(max_size=8).map(_encoded)) + WRITTEN[end:]


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


TEXTS = st.one_of(
    _damaged(),
    st.binary(max_size=300),
    st.text(max_size=300).map(_encoded),
    st.text(alphabet="ab: -\n\t[]{}&*!|>'\"%@`?#,$\\x0<~", max_size=200).map(str.encode),
    VALUES.map(lambda value: _encoded(yaml.safe_dump(value, allow_unicode=True))),
    st.dictionaries(st.sampled_from(KEYS), VALUES).map(lambda value: yaml.safe_dump(value).encode()),
)
PROFILE = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with room for agents."""
    (tmp_path / "agents").mkdir()
    return tmp_path


@PROFILE
@given(main=TEXTS, agent=TEXTS)
def test_no_bytes_raise_anything_but_config_error(folder: Path, main: bytes, agent: bytes) -> None:
    """Whatever the files hold, load returns settings or raises ConfigError with at least one finding."""
    path = folder / "denwa.yaml"
    path.write_bytes(main)
    (folder / "agents" / "x.yaml").write_bytes(agent)
    findings: tuple[Finding, ...] | None = None
    try:
        load(path, {"A": "\x00${B}"})
    except ConfigError as error:
        findings = error.findings
    assert findings is None or (findings and all(found.line >= 1 and found.message for found in findings))
