"""int8 files and adapters: what is stored beside the plain weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from model_runtime.checkpoint import load_language_model
from model_runtime.errors import CheckpointError
from tests.model_runtime.checkpoint import published
from tests.model_runtime.checkpoint.test_published_shapes import assert_equal_logits, columns

pytestmark = pytest.mark.usefixtures("oracle")

RANK, SCALING = 4, 2.0


def quantized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as the published q8 files hold it: every linear matrix in int8, with ``_scb`` beside it."""
    out = {}
    for name, tensor in weights.items():
        if tensor.dim() == 2 and "emb" not in name.removesuffix(".low_rank.weight"):
            largest = tensor.abs().amax(1)
            out[name] = (tensor * (127 / largest)[:, None]).round().to(torch.int8)
            out[name + "_scb"] = largest
        else:
            out[name] = tensor.to(torch.bfloat16).float()
    return out


def dequantized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float32 matrices that an int8 state dict stands for."""
    return {
        name: tensor * weights[name + "_scb"][:, None] / 127 if name + "_scb" in weights else tensor
        for name, tensor in weights.items()
        if not name.endswith("_scb")
    }


@pytest.mark.parametrize("style", ["parts", "fused"])
@pytest.mark.parametrize("keys", [published.MOSHI, published.PERSONAPLEX])
def test_int8_files(style: str, keys: dict[str, object], tmp_path: Path) -> None:
    """An int8 file has, within 1e-5, the logits of the reference with the float32 matrices that it stands for."""
    theirs = published.reference_lm(keys)
    weights = quantized(theirs.state_dict())
    theirs.load_state_dict(dequantized(weights))
    path = published.write(
        tmp_path, published.fused(weights) if style == "fused" else weights, keys | {"quantize": True}
    )
    assert_equal_logits(load_language_model(path, "cpu", torch.float32), theirs, keys)


def test_scales_stay_float32_until_they_are_used(tmp_path: Path) -> None:
    """In bfloat16 a matrix is the exact product rounded once, not a product of rounded factors."""
    weights = quantized(published.reference_lm(published.MOSHI).state_dict())
    lm = load_language_model(published.write(tmp_path, weights, published.MOSHI), "cpu", torch.bfloat16)
    exact = dequantized(weights)["text_linear.weight"]
    assert torch.equal(lm.text_linear.weight, exact.to(torch.bfloat16))


@pytest.mark.parametrize("keys", [published.MOSHI, published.PERSONAPLEX])
def test_int8_matrices_can_stay(keys: dict[str, object], tmp_path: Path) -> None:
    """Kept in int8, a file's matrices and scales are the file's own, and the logits those of their float32 product."""
    theirs = published.reference_lm(keys)
    weights = quantized(theirs.state_dict())
    theirs.load_state_dict(dequantized(weights))
    path = published.write(tmp_path, published.fused(weights), keys)
    lm = load_language_model(path, "cpu", torch.float32, int8_weights=True)
    held = lm.state_dict()
    assert torch.equal(held["text_linear.weight"], weights["text_linear.weight"])
    assert torch.equal(held["text_linear.weight_scb"], weights["text_linear.weight_scb"])
    assert held["transformer.layers.0.self_attn.in_proj_weight"].dtype == torch.int8
    assert_equal_logits(lm, theirs, keys)


def test_other_files_are_quantised_at_load(tmp_path: Path) -> None:
    """A float file loaded in int8 holds what its quantised form would."""
    plain = published.reference_lm(published.MOSHI).state_dict()
    ours = load_language_model(published.write(tmp_path / "a", plain, published.MOSHI), int8_weights=True)
    q8 = published.write(tmp_path / "b", quantized(plain), published.MOSHI)
    expected = load_language_model(q8, int8_weights=True).state_dict()
    for name, tensor in ours.state_dict().items():
        if tensor.dtype == torch.int8:
            assert (tensor.int() - expected[name].int()).abs().max() <= 1  # rounded from bfloat16
    assert ours.state_dict().keys() == expected.keys()


def test_int8_without_scales_is_refused(tmp_path: Path) -> None:
    """An int8 matrix without its scales, and scales of another type, are named."""
    weights = quantized(published.reference_lm(published.MOSHI).state_dict())
    del weights["text_linear.weight_scb"]
    weights["linears.0.weight_scb"] = weights["linears.0.weight_scb"].to(torch.bfloat16)
    path = published.write(tmp_path, weights, published.MOSHI)
    with pytest.raises(CheckpointError, match=r"(?s)linears\.0.*_scb: float32 is needed.*text_linear\.weight_scb"):
        load_language_model(path, "cpu", torch.float32)


def adapters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Random adapters for every linear matrix of a state dict."""
    random = torch.Generator().manual_seed(9)
    out = {}
    for name, tensor in weights.items():
        if tensor.dim() == 2 and not name.startswith(("emb.", "text_emb.", "depformer_emb.", "depformer_text_emb.")):
            module = name.removesuffix(".weight")
            rows, columns = tensor.shape
            out[f"{module}.lora_A.weight"] = torch.randn(RANK, columns, generator=random) / columns**0.5
            out[f"{module}.lora_B.weight"] = torch.randn(rows, RANK, generator=random) * 0.2
    return out


@pytest.mark.parametrize("style", ["parts", "fused", "whole"])
def test_adapters_are_merged(style: str, tmp_path: Path) -> None:
    """A model with adapters has the logits of the reference's with its own adapters, in every style they come in."""
    from moshi.models.loaders import get_lora_moshi

    keys = published.MOSHI
    theirs = published.reference_lm(keys)
    weights = dict(theirs.state_dict())
    added = adapters(weights)
    path = published.write(tmp_path, weights, keys | {"lora": True, "lora_rank": RANK, "lora_scaling": SCALING})
    stored = published.fused_adapters(added) if style == "fused" else dict(added)
    if style == "whole":  # embeddings that were trained, and base matrices beside the adapters
        weights["text_emb.weight"] = stored["text_emb.weight"] = weights["text_emb.weight"] + 1
        stored["text_linear.frozen_W.weight"] = weights["text_linear.weight"] = weights["text_linear.weight"] * 2
        theirs.load_state_dict(weights)
    save_file(stored, path / "lora.safetensors")
    save_file(added, tmp_path / "theirs.safetensors")
    theirs = get_lora_moshi(
        theirs, tmp_path / "theirs.safetensors", RANK, SCALING, torch.float32, "cpu", fuse_lora=True
    )
    assert_equal_logits(load_language_model(path, "cpu", torch.float32), theirs.requires_grad_(False), keys)


def test_adapters_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Adapters of another rank, of no matrix, or without their other half are all named in one error."""
    weights = published.reference_lm(published.MOSHI).state_dict()
    path = published.write(tmp_path, weights, published.MOSHI | {"lora": True, "lora_rank": RANK})
    stored = adapters(weights)
    stored["text_linear.lora_A.weight"] = torch.zeros(RANK, 3)
    stored["nothing.lora_A.weight"] = torch.zeros(RANK, 3)
    del stored["linears.3.lora_B.weight"]
    save_file(stored, path / "lora.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_language_model(path, "cpu", torch.float32)
    for name in ("text_linear.weight: adapters", "nothing.lora_A.weight", "linears.3.weight.lora_A comes without"):
        assert name in str(caught.value)


def test_adapters_and_int8_exclude_each_other(tmp_path: Path) -> None:
    """Adapters on int8 weights are refused, whether config.json or the file says that they are int8."""
    weights = published.reference_lm(published.MOSHI).state_dict()
    lora = {"lora": True, "lora_rank": RANK}
    path = published.write(tmp_path, quantized(weights), published.MOSHI | lora | {"quantize": True})
    save_file(adapters(weights), path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="lora and quantize exclude each other"):
        load_language_model(path)
    published.write(tmp_path, quantized(weights), published.MOSHI | lora)
    with pytest.raises(CheckpointError, match="adapters cannot be merged into int8 weights"):
        load_language_model(path)


def test_missing_adapters_are_said(tmp_path: Path) -> None:
    """A config.json that asks for adapters beside a folder without them is refused, not run without."""
    path = published.write(
        tmp_path, published.reference_lm(published.MOSHI).state_dict(), published.MOSHI | {"lora": True}
    )
    with pytest.raises(CheckpointError, match=r"lora\.safetensors is missing"):
        load_language_model(path)


def test_columns_are_lively() -> None:
    """The columns that the comparisons use differ from one another."""
    assert len(columns(published.MOSHI).unique()) > 60
