"""Where a checkpoint's files are: a folder, one file, Denwa itself, or a repository of the Hugging Face Hub.

Reads config.json alone.

The Hub is asked through the ``huggingface-hub`` package, which keeps its own cache and obeys its own environment
variables (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE …); nothing of it is imported unless a name begins with ``hf://``.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from model_runtime.checkpoint.config import MimiConfig
from model_runtime.checkpoint.config_file import CheckpointConfig, read_config, read_mimi_config
from model_runtime.embedded import PREFIX, embedded_folder
from model_runtime.errors import CheckpointError

_HUB: Final = re.compile(r"^hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>.+))?$")


class Repository(Protocol):
    """Files by name."""

    def file(self, name: str) -> Path:
        """A file that has to be there; raises ``CheckpointError``."""

    def optional(self, name: str) -> Path | None:
        """A file, or None where the repository has none of that name."""


@dataclass(frozen=True)
class Folder:
    """A local folder."""

    path: Path

    def file(self, name: str) -> Path:
        """A file that has to be there; raises ``CheckpointError``, which names the files that are."""
        if path := self.optional(name):
            return path
        try:
            there = ", ".join(sorted(each.name for each in self.path.iterdir() if each.is_file())) or "no files"
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror}") from error
        raise CheckpointError(f"{self.path}: {name} is missing; there are: {there}")

    def optional(self, name: str) -> Path | None:
        """A file, or None where the folder has none of that name."""
        path = self.path / name
        return path if path.is_file() else None


@dataclass(frozen=True)
class HubRepository:
    """A model repository of the Hugging Face Hub, or what of it is in the cache."""

    name: str
    revision: str | None = None

    def file(self, name: str) -> Path:
        """A file that has to be there, fetched where the cache lacks it; raises ``CheckpointError``."""
        path = self._fetch(name)
        if path is None:
            raise CheckpointError(f"{self}: there is no file {name}")
        return path

    def optional(self, name: str) -> Path | None:
        """A file, or None where the repository has none of that name; raises ``CheckpointError``."""
        return self._fetch(name)

    def _fetch(self, name: str) -> Path | None:
        try:
            import huggingface_hub
            from huggingface_hub import errors
        except ImportError as error:
            raise CheckpointError(
                f"{self}: names with hf:// need a package more: pip install 'denwa[hub]' (huggingface-hub)"
            ) from error
        try:
            return Path(huggingface_hub.hf_hub_download(self.name, name, revision=self.revision))
        except errors.LocalEntryNotFoundError as error:
            known = huggingface_hub.try_to_load_from_cache(self.name, name, revision=self.revision)
            if known is not None and not isinstance(known, str):
                return None  # the Hub was asked once, and has none
            raise CheckpointError(f"{self}: {name} is not in the cache and the Hub cannot be reached") from error
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:
            raise CheckpointError(f"{self}: accept its licence on huggingface.co and set HF_TOKEN") from error
        except errors.RepositoryNotFoundError as error:
            raise CheckpointError(f"{self}: there is no such repository, or HF_TOKEN may not see it") from error
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
            raise CheckpointError(f"{self}: {name}: {str(error).strip().splitlines()[0]}") from error

    def __str__(self) -> str:
        return f"hf://{self.name}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Checkpoint:
    """The files of one model; looking them up may fetch them."""

    repository: Repository
    config: CheckpointConfig
    given: Path | None = None
    """The one file that was named instead of a folder."""

    def language_model(self) -> Path:
        """The language model's weights."""
        return self.given or self._resolve(self.config.moshi_name)

    def adapters(self) -> Path | None:
        """The low-rank adapters that belong to the weights, if any."""
        return self._resolve(self.config.lora_name) if self.config.lora else None

    def codec(self) -> Path:
        """Mimi's weights."""
        return self.given or self._resolve(self.config.mimi_name)

    def codec_config(self) -> MimiConfig:
        """Mimi's shape: the published one where none is named."""
        name = self.config.mimi_config_name
        return MimiConfig() if name is None else read_mimi_config(self._resolve(name))

    def tokenizer(self) -> Path:
        """The sentencepiece model of the text tokens."""
        return self._resolve(self.config.tokenizer_name)

    def _resolve(self, name: str) -> Path:
        if name.startswith("hf://"):
            repository, file = _hub(name)
            if file is None:
                raise CheckpointError(f"{name}: a file is needed, hf://owner/name/path")
            return repository.file(file)
        if name.startswith("file://"):
            path = Path(name.removeprefix("file://"))
            return Folder(path.parent).file(path.name)
        return self.repository.file(name)


def locate(reference: str | Path) -> Checkpoint:
    """The checkpoint at a folder, a file of weights, ``file://path`` or ``hf://owner/name[@revision][/path]``.

    ``embedded:NAME`` is one that comes with Denwa.

    Its config.json is read where there is one; without it the published 7B is assumed. Raises ``CheckpointError``.
    """
    text = str(reference)
    repository: Repository
    given: Path | None = None
    if text.startswith("hf:/"):  # a Path has lost one stroke
        repository, file = _hub(text if text.startswith("hf://") else text.replace("hf:/", "hf://", 1))
        given = repository.file(file) if file else None
    elif text.startswith(PREFIX):
        repository = Folder(embedded_folder(text))
    else:
        path = Path(text.removeprefix("file://")).expanduser()
        if path.is_dir():
            repository = Folder(path)
        elif path.is_file():
            repository, given = Folder(path.parent), path
        else:
            raise CheckpointError(f"{path}: there is no such folder or file")
    config = repository.optional("config.json")
    return Checkpoint(repository, read_config(config) if config else CheckpointConfig(), given)


def _hub(name: str) -> tuple[HubRepository, str | None]:
    match = _HUB.match(name)
    if match is None:
        raise CheckpointError(f"{name}: this is not hf://owner/name[@revision][/path]")
    return HubRepository(match["repo"], match["revision"]), match["file"]
