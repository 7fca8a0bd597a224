"""Bad files, and the memory that loading takes. No reference package is needed here."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from model_runtime.checkpoint import load_language_model, load_listener, load_mimi, load_moshi
from model_runtime.checkpoint.config_file import parse_config
from model_runtime.errors import CheckpointError
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.tiny import TINY_MIMI, TOKENIZER
from tests.model_runtime.checkpoint import published
from tests.model_runtime.conftest import SMALL_MIMI


def weights(keys: dict[str, Any] = published.MOSHI) -> dict[str, Tensor]:
    """The tensors of a model of these keys, as it was made."""
    return dict(LanguageModel(parse_config(keys).lm).state_dict())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A language model's folder."""
    return published.write(tmp_path / "model", weights(), published.MOSHI)


def test_every_fault_is_named_in_one_error(tmp_path: Path) -> None:
    """Missing, unexpected, misshapen and doubled tensors are all in the same error, with the shapes."""
    tensors = weights()
    del tensors["text_emb.weight"], tensors["depformer_emb.3.weight"]
    tensors["linears.2.weight"] = torch.zeros(64, 31)
    tensors["depformer.layers.0.self_attn.in_proj_weight"] = torch.zeros(5, 32)
    tensors["surprise.weight"] = torch.zeros(1)
    tensors["transformer.layers.0.self_attn.in_proj.weight"] = torch.zeros(192, 64)
    path = published.write(tmp_path, tensors, published.MOSHI)
    with pytest.raises(CheckpointError) as caught:
        load_language_model(path)
    message = str(caught.value)
    assert "model.safetensors" in message
    assert "missing (2): text_emb.weight, depformer_emb.3.weight" in message
    assert "unexpected (1): surprise.weight" in message
    assert "linears.2.weight is [64, 31], [64, 32] is needed" in message
    assert "in_proj_weight is [5, 32], [768, 32] is needed" in message
    assert "transformer.layers.0.self_attn.in_proj_weight is there twice" in message


def test_a_part_that_is_missing_is_seen(tmp_path: Path) -> None:
    """A depth layer whose matrices per step have a gap is refused, not shifted."""
    tensors = weights()
    fused = tensors.pop("depformer.layers.1.self_attn.out_proj.weight")
    for k, part in enumerate(fused.chunk(8)):
        if k != 4:
            tensors[f"depformer.layers.1.self_attn.out_projs.{k}.weight"] = part.clone()
    with pytest.raises(CheckpointError, match=r"out_proj\.weight has parts \[0, 1, 2, 3, 5, 6, 7\]"):
        load_language_model(published.write(tmp_path, tensors, published.MOSHI))


def test_another_shape_than_config_says(tmp_path: Path) -> None:
    """A file whose model is wider than its config.json says is refused with the shapes."""
    path = published.write(tmp_path, weights(), published.MOSHI | {"dim": 32})
    with pytest.raises(CheckpointError, match=r"out_norm\.alpha is \[1, 1, 64\], \[1, 1, 32\] is needed"):
        load_language_model(path)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_file(keep: int, folder: Path) -> None:
    """A file that was cut anywhere, by one byte too, is said to be truncated or corrupt."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: truncated, corrupt or no safetensors file"):
        load_language_model(folder)


@pytest.mark.parametrize(
    "content", [b"\xff" * 100, b"<html>404</html>" * 10, b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_no_safetensors_at_all(content: bytes, folder: Path) -> None:
    """What a failed download left is refused."""
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated, corrupt or no safetensors file"):
        load_language_model(folder)


def test_another_family(folder: Path, tmp_path: Path) -> None:
    """A codec given as a language model, the other way round, and other layouts are told apart."""
    codec = tmp_path / "codec.safetensors"
    save_file(Mimi(TINY_MIMI).state_dict(), codec)
    with pytest.raises(CheckpointError, match="a language model is needed, this file holds codec"):
        load_language_model(codec)
    with pytest.raises(CheckpointError, match="a codec is needed, this file holds language model"):
        load_mimi(folder / "model.safetensors")
    for name, message in (
        ("depformer.0.linear_in.weight", "another layout"),
        ("model.layers.0.mlp.weight", "another layout"),
        ("text_linear.lora_A.weight", "holds adapters"),
        ("bert.weight", "no model of this family"),
    ):
        save_file({name: torch.zeros(1)}, tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_language_model(tmp_path / "other.safetensors")


def test_missing_files(folder: Path) -> None:
    """Each file that a folder lacks is named, with those that it has; so is a folder that does not exist."""
    with pytest.raises(CheckpointError, match=r"tokenizer_spm_32k_3\.model is missing; there are: config.json, model"):
        load_moshi(folder, "cpu", torch.float32, 1)
    (folder / "tokenizer_spm_32k_3.model").write_bytes(TOKENIZER.read_bytes())
    with pytest.raises(CheckpointError, match=r"tokenizer-e351c8d8-checkpoint125\.safetensors is missing"):
        load_moshi(folder, "cpu", torch.float32, 1)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load_language_model(folder)
    with pytest.raises(CheckpointError, match="there is no such folder or file"):
        load_language_model(folder / "nowhere")


def test_a_broken_tokenizer(folder: Path) -> None:
    """A tokenizer that is none fails before the weights are read."""
    (folder / "tokenizer_spm_32k_3.model").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="no sentencepiece model"):
        load_moshi(folder, "cpu", torch.float32, 1)


def test_speech_to_text_cannot_answer(tmp_path: Path) -> None:
    """A model that only listens is refused where a conversation is wanted."""
    path = published.write(tmp_path, weights(published.STT), published.STT | {"model_type": "stt"})
    with pytest.raises(CheckpointError, match="it listens and cannot answer"):
        load_moshi(path, "cpu", torch.float32, 1)


def listener_folder(folder: Path, keys: dict[str, Any]) -> Path:
    """A speech-to-text checkpoint as it is published, with a delay of half a second."""
    keys = published.STT | {"model_type": "stt", "stt_config": {"audio_delay_seconds": 0.5}} | keys
    return published.write(folder, weights(keys), keys, mimi=codec_weights())


def codec_weights() -> dict[str, Tensor]:
    """The tensors of the small codec."""
    return dict(Mimi(SMALL_MIMI).state_dict())


def test_a_listener_is_loaded_for_its_delay_and_codebooks(tmp_path: Path, folder: Path) -> None:
    """It comes with its tokenizer and the delay of its config, and the conversation's codec writes what it reads."""
    listener = load_listener(listener_folder(tmp_path / "stt", {}), "cpu", torch.float32)
    assert listener.delay_s == 0.5
    assert listener.tokenizer.vocab_size > 0
    answering = published.write(folder, weights(), published.MOSHI, mimi=codec_weights())
    moshi, _ = load_moshi(answering, "cpu", torch.float32, 1, listener=listener)
    assert moshi.listener is not None
    step = moshi.step(torch.zeros(1, 1, 1920), torch.ones(1, dtype=torch.bool))
    assert step.caller is not None
    assert moshi.mimi.codebooks == 8


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_q": 9, "delays": [0] * 10}, "the listener reads 9 codebooks of 64; the model's codec has 8 of 64"),
        ({"card": 32}, "the listener reads 8 codebooks of 32; the model's codec has 8 of 64"),
        ({"stt_config": {"audio_delay_seconds": "late"}}, "audio_delay_seconds: seconds are needed, got 'late'"),
    ],
)
def test_a_listener_that_cannot_be_used(tmp_path: Path, folder: Path, keys: dict[str, Any], message: str) -> None:
    """One that reads another codec than the conversation's, or does not say how late it is, is refused."""
    answering = published.write(folder, weights(), published.MOSHI, mimi=codec_weights())
    with pytest.raises(CheckpointError) as caught:
        load_moshi(
            answering,
            "cpu",
            torch.float32,
            1,
            listener=load_listener(listener_folder(tmp_path / "stt", keys), "cpu", torch.float32),
        )
    assert message in str(caught.value)


def test_a_speaker_is_no_listener(folder: Path) -> None:
    """A model that converses, or a file alone, is refused where a listener is wanted."""
    with pytest.raises(CheckpointError, match="it speaks"):
        load_listener(folder, "cpu", torch.float32)
    with pytest.raises(CheckpointError, match="this is one file"):
        load_listener(folder / "model.safetensors", "cpu", torch.float32)


def test_old_torch_files(tmp_path: Path) -> None:
    """An old .pt with the state dict behind its keys is read, and nothing but tensors is unpickled from one."""
    path = tmp_path / "model.pt"
    tensors = weights()
    torch.save({"fsdp_best_state": {"model": tensors}}, path)
    (tmp_path / "config.json").write_text(
        (published.write(tmp_path / "m", {}, published.MOSHI) / "config.json").read_text()
    )
    lm = load_language_model(path, "cpu", torch.float32)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in lm.state_dict().items())
    torch.save({"model": {"x": Path("x")}}, path)
    with pytest.raises(CheckpointError, match="no torch file that can be read safely"):
        load_language_model(path)
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="no state dict"):
        load_language_model(path)


def test_a_mapped_model_never_writes_to_its_file(folder: Path) -> None:
    """What is kept mapped belongs to this process: changing a weight leaves the file as it was."""
    before = (folder / "model.safetensors").read_bytes()
    lm = load_language_model(folder, "cpu", torch.float32)
    lm.text_linear.weight.data.fill_(1)
    assert (folder / "model.safetensors").read_bytes() == before


def test_hibiki_reads_its_early_end_as_padding(tmp_path: Path) -> None:
    """A translator's EOS row is its PAD row, as the reference loads it."""
    path = published.write(tmp_path, weights(), published.MOSHI | {"model_type": "hibiki"})
    rows = load_language_model(path, "cpu", torch.float32).text_emb.weight
    assert torch.equal(rows[2], rows[3])


MEASURE = """
import sys, torch
from pathlib import Path
from model_runtime.checkpoint import load_language_model

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) // 1024

load_language_model(sys.argv[2])  # so that what loading imports is there
for dtype in (torch.float32, torch.bfloat16):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    lm = load_language_model(sys.argv[1], "cpu", dtype)
    print(memory("VmHWM") - before, sum(p.numel() * p.element_size() for p in lm.parameters()) // 2**20)
    del lm
"""


def test_peak_memory_while_loading(tmp_path: Path) -> None:
    """Beside the model itself, loading takes a fifth of the file's size at most; mapped as it is, the model takes none.

    The cast on the CPU stands for the way to any other device: each tensor is read, handed over, and gone.
    """
    big = published.MOSHI | {"dim": 1024, "num_layers": 6, "depformer_dim": 64, "depformer_dim_feedforward": 264}
    with torch.device("meta"):
        lm = LanguageModel(parse_config(big).lm)
    published.write(tmp_path / "big", {name: torch.zeros(each.shape) for name, each in lm.state_dict().items()}, big)
    published.write(tmp_path / "small", weights(), published.MOSHI)
    size = (tmp_path / "big" / "model.safetensors").stat().st_size // 2**20
    assert size > 280
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "big"), str(tmp_path / "small")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (mapped, whole), (cast, half) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert whole == pytest.approx(size, rel=0.02)
    assert half == pytest.approx(size / 2, rel=0.02)
    assert mapped < size / 5
    assert cast - half < size / 5
