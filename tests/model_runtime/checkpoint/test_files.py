"""Where files are looked for: folders, files, and the cache of the Hugging Face Hub, which is never asked here."""

import sys
from pathlib import Path

import pytest

from model_runtime.checkpoint.files import HubRepository, locate
from model_runtime.errors import CheckpointError
from tests.model_runtime.checkpoint import published

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, which cannot be reached."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(hub: Path, name: str, files: dict[str, bytes], absent: str | None = None) -> None:
    """Put files of a repository into the cache, and note one that the repository is known to lack."""
    repository = hub / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    for file, content in files.items():
        (snapshot / file).write_bytes(content)
    if absent:
        none = repository / ".no_exist" / REVISION
        none.mkdir(parents=True)
        (none / absent).touch()


def test_a_repository_in_the_cache(hub: Path) -> None:
    """hf://owner/name reads config.json and files from the Hub's own cache; names in it may point at another's."""
    config = (
        b'{"moshi_name": "model.q8.safetensors", "quantize": true, "mimi_name": "hf://owner/other/mimi.safetensors"}'
    )
    cached(hub, "owner/name-q8", {"config.json": config, "model.q8.safetensors": b"x"})
    cached(hub, "owner/other", {"mimi.safetensors": b"y"})
    for reference in ("hf://owner/name-q8", f"hf://owner/name-q8@{REVISION}", Path("hf://owner/name-q8")):
        checkpoint = locate(reference)
        assert checkpoint.config.quantize
        assert checkpoint.language_model().read_bytes() == b"x"
        assert checkpoint.codec().read_bytes() == b"y"


def test_a_repository_without_config(hub: Path) -> None:
    """One that is known to have no config.json is a published 7B."""
    cached(hub, "owner/name", {"model.safetensors": b"x"}, absent="config.json")
    checkpoint = locate("hf://owner/name")
    assert checkpoint.config.lm.dim == 4096
    assert checkpoint.language_model().name == "model.safetensors"
    assert locate("hf://owner/name/model.safetensors").given == checkpoint.language_model()


def test_what_is_not_in_the_cache(hub: Path) -> None:
    """A repository that is not there says so, and never passes for one without config.json."""
    with pytest.raises(CheckpointError, match=r"hf://owner/name: config\.json is not in the cache and the Hub cannot"):
        locate("hf://owner/name")


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without huggingface-hub the error has the line that installs it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'denwa\[hub\]'"):
        locate("hf://owner/name")


@pytest.mark.parametrize("name", ["hf://owner", "hf://owner/", "hf:///x", "hf://a b/c"])
def test_names_that_are_none(name: str) -> None:
    """What looks like a name of the Hub and is none is refused as it stands."""
    with pytest.raises(CheckpointError, match="this is not hf://owner/name"):
        locate(name)


def test_local_names(tmp_path: Path) -> None:
    """file:// names a file anywhere; other names are beside config.json; a file brings its folder's config.json."""
    published.write(tmp_path / "here", {}, {"tokenizer_name": f"file://{tmp_path}/there/text.model"})
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "text.model").touch()
    checkpoint = locate(f"file://{tmp_path}/here")
    assert checkpoint.tokenizer() == tmp_path / "there" / "text.model"
    assert locate(tmp_path / "here" / "model.safetensors").config == checkpoint.config


def test_a_repository_names_itself() -> None:
    """Errors carry the name as the operator wrote it."""
    assert str(HubRepository("a/b", "v1")) == "hf://a/b@v1"
