from pathlib import Path

import pytest
import torch

from agent.cli import main
from model_runtime.checkpoint import load_language_model
from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.checkpoint.config_file import parse_config, read_mimi_config
from model_runtime.checkpoint.report import Footprint, info
from model_runtime.checkpoint.verify import verify
from model_runtime.errors import CheckpointError
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from tests.model_runtime.checkpoint import published


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole small checkpoint."""
    lm = LanguageModel(parse_config(published.MOSHI).lm)
    codec = Mimi(read_mimi_config(published.write_codec_config(tmp_path)))
    return published.write(tmp_path, lm.state_dict(), published.MOSHI, mimi=codec.state_dict())


def test_the_published_7b(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of 15.4 GB in the published names is described, and mapped as it is, without reading its numbers."""
    with torch.device("meta"):
        lm = LanguageModel(LanguageModelConfig())
    path = tmp_path / "model.safetensors"
    published.write_sparse(path, {name: tuple(tensor.shape) for name, tensor in lm.state_dict().items()})
    assert main(["model", "info", str(path), "--device", "cpu", "--dtype", "bfloat16"]) == 0
    text = capsys.readouterr().out
    assert "model.safetensors, 15.38 GB" in text
    assert "32 layers of 4096, 32 heads, 3000 steps of context (240 s)" in text
    assert "7,687,729,152    15.38 GB" in text
    assert "1.57 GB keys and values" in text
    assert main(["model", "info", str(path), "--dtype", "bfloat16", "--int8-weights", "--int8-cache"]) == 0
    text = capsys.readouterr().out
    assert "7,687,729,152     8.01 GB" in text
    assert "811 MB keys and values" in text
    loaded = load_language_model(path, "cpu", torch.bfloat16)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == 7_687_729_152


def test_slots_that_fit() -> None:
    """A tenth of what is free is kept; the rest holds the weights and then slots."""
    footprint = Footprint(weights=15_000_000_000, cache=1_573_000_000, codec_state=20_000_000)
    assert footprint.slots(143_000_000_000) == 71
    assert footprint.slots(10_000_000_000) == 0


def test_a_whole_folder(folder: Path) -> None:
    """Files, streams and parts of a folder are told."""
    text = info(str(folder), "cpu", "float32")
    for part in ("(moshi)", "mimi.safetensors", "text.model", "8 own and 8 user codes of 64", "depth transformer"):
        assert part in text


def test_verify_runs_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint that loads, computes numbers and keeps up is good, and the command says so with its exit code."""
    verdict = verify(str(folder), "cpu", "float32", slots=2)
    assert not verdict.not_finite
    assert verdict.good == verdict.keeps_up
    assert len(verdict.step_s) == 45
    code = main(["model", "verify", str(folder), "--device", "cpu"])
    text = capsys.readouterr().out
    assert "finite      weights, logits and audio of 50 frames" in text
    assert code == (0 if "real time   yes" in text else 1)


def test_verify_finds_what_is_no_number(folder: Path) -> None:
    """A weight that is no number, as a damaged file has it, is named, and so is what it spoils."""
    published.write(folder, _spoilt(folder), None)
    verdict = verify(str(folder), "cpu", "float32")
    assert {"text_linear.weight", "text logits"} <= set(verdict.not_finite)
    assert not verdict.good
    assert "no: " in str(verdict)


def test_verify_runs_a_listener(folder: Path) -> None:
    """A speech-to-text checkpoint is run without speech."""
    lm = LanguageModel(parse_config(published.STT).lm)
    published.write(folder, lm.state_dict(), None)
    names = {"mimi_name": "mimi.safetensors", "mimi_config_name": "mimi.json", "tokenizer_name": "text.model"}
    published.write_config(folder, published.STT | names | {"model_type": "stt"})
    verdict = verify(str(folder), "cpu", "float32")
    assert not verdict.not_finite
    assert "it listens and writes" in info(str(folder), "cpu", "float32")
    assert "it listens and writes" in info("random:stt", "cpu", "float32")
    assert not verify("random:stt", "cpu", "float32").not_finite


def test_a_checkpoint_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both commands exit with 1 and one line that names the folder."""
    for verb in ("info", "verify"):
        assert main(["model", verb, str(tmp_path)]) == 1
        assert f"denwa model {verb}: {tmp_path}: " in capsys.readouterr().err
    for device in ("cuda:99", "gpu"):
        with pytest.raises(CheckpointError, match=f"device {device}"):
            info("random:tiny", device)
    with pytest.raises(SystemExit, match="2"):
        main(["model", "verify", "random:tiny", "--slots", "0"])


def _spoilt(folder: Path) -> dict[str, torch.Tensor]:
    tensors = dict(load_language_model(folder, "cpu", torch.float32).state_dict())
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors["text_linear.weight"][3, 5] = float("nan")
    return tensors
