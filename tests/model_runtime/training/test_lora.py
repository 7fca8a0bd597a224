import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model_runtime.checkpoint import load_language_model
from model_runtime.checkpoint.config_file import LoraConfig
from model_runtime.checkpoint.files import locate
from model_runtime.lm.language_model import LanguageModel
from model_runtime.training.export import Style, config_keys, export_adapters, export_language_model
from model_runtime.training.forward import TeacherForcing, delayed, delayed_mask
from model_runtime.training.lora import adapters, add_adapters, merged
from model_runtime.training.losses import LossWeights, lm_loss
from tests.model_runtime.checkpoint import published
from tests.model_runtime.conftest import randomise
from tests.model_runtime.training.toys import toy_batch

LORA = LoraConfig(rank=4, scaling=2.0)


def base_folder(folder: Path, keys: dict[str, object]) -> Path:
    """A checkpoint of random weights with these keys."""
    lm = LanguageModel(locate(published.write(folder, {}, keys)).config.lm)
    randomise(lm, 3)
    return published.write(folder, lm.state_dict(), keys)


def adapted(folder: Path, *, embeddings: bool = False) -> LanguageModel:
    """The model of a folder with fresh adapters."""
    lm = load_language_model(folder, "cpu", torch.float32)
    return add_adapters(lm, LORA, torch.Generator().manual_seed(1), embeddings=embeddings)


def train(lm: LanguageModel, steps: int = 3) -> list[float]:
    """The losses of a few steps on one batch."""
    batch, config = toy_batch(lm.config, seed=1), lm.config
    columns, mask = delayed(batch.tokens, config), delayed_mask(batch.loss_mask, config)
    optimizer = torch.optim.Adam([each for each in lm.parameters() if each.requires_grad], lr=0.01)
    losses = []
    for _ in range(steps):
        logits = TeacherForcing(lm)(columns)
        loss = lm_loss(logits.text, logits.audio_grid(), columns[:, :9, 1:], mask[:, :9], LossWeights()).total
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def logits(lm: nn.Module) -> list[Tensor]:
    """What a model says to a batch."""
    assert isinstance(lm, LanguageModel)
    with torch.no_grad():
        out = TeacherForcing(lm)(delayed(toy_batch(lm.config, seed=2).tokens, lm.config))
    return [out.text, out.audio]


def test_fresh_adapters_change_nothing(tmp_path: Path) -> None:
    """Before training the adapted model is the model, and only adapters require a gradient."""
    folder = base_folder(tmp_path, published.MOSHI)
    before, lm = logits(load_language_model(folder, "cpu", torch.float32)), adapted(folder)
    for ours, base in zip(logits(lm), before, strict=True):
        torch.testing.assert_close(ours, base)
    assert all(".lora." in name or "_lora." in name for name, each in lm.named_parameters() if each.requires_grad)


def test_only_the_adapters_train(tmp_path: Path) -> None:
    """The loss falls, each adapter moves, and the frozen weights stay bit for bit."""
    folder = base_folder(tmp_path, published.MOSHI)
    frozen = load_language_model(folder, "cpu", torch.float32).state_dict()
    lm = adapted(folder)
    losses = train(lm, 6)
    assert losses[-1] < losses[0]
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in lm.state_dict().items() if name in frozen)
    found = dict(adapters(lm))
    assert set(found) >= {"text_linear.weight", "depformer_in.3.weight", "depformer.layers.1.gating.2.linear_in.weight"}
    assert all(module.up.abs().sum() > 0 for module in found.values())


@pytest.mark.parametrize("style", ["parts", "fused"])
@pytest.mark.parametrize("keys", [published.MOSHI, published.NEWER], ids=["moshi", "newer"])
def test_separate_and_merged_exports_load(tmp_path: Path, keys: dict[str, object], style: Style) -> None:
    """Adapters beside the base, in either style of names, and the merged model give the trained model's logits."""
    folder = base_folder(tmp_path / "base", keys)
    lm = adapted(folder, embeddings=True)
    train(lm)
    expected = logits(lm)
    described = config_keys(locate(folder))
    export_adapters(lm, tmp_path / "separate", described, LORA, style, torch.float32)
    export_language_model(lm, tmp_path / "merged", described, torch.float32)
    for name in ("separate", "merged"):
        loaded = load_language_model(tmp_path / name, "cpu", torch.float32)
        for ours, theirs in zip(logits(loaded), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert not json.loads((tmp_path / "merged" / "config.json").read_text()).get("lora")


def test_the_adapted_model_streams(tmp_path: Path) -> None:
    """Stepping the model with its adapters, as samples do, gives the logits of the whole pass."""
    lm = adapted(base_folder(tmp_path, published.MOSHI))
    train(lm)
    columns = delayed(toy_batch(lm.config, seed=2).tokens, lm.config)
    state, everyone = lm.new_state(len(columns)), torch.ones(len(columns), dtype=torch.bool)
    with torch.no_grad():
        steps = [lm.step(columns[..., t], state, everyone)[1] for t in range(columns.shape[-1] - 1)]
    torch.testing.assert_close(torch.stack(steps, 1), logits(lm)[0], rtol=0, atol=1e-4)


def test_the_reference_reads_the_adapters(tmp_path: Path, oracle: None) -> None:
    """The reference package loads the exported adapters and has the merged model's text logits."""
    from moshi.models.loaders import get_lora_moshi, get_moshi_lm

    folder = base_folder(tmp_path / "base", published.MOSHI)
    lm = adapted(folder)
    train(lm)
    export_adapters(lm, tmp_path, config_keys(locate(folder)), LORA, "parts", torch.float32)
    theirs = get_moshi_lm(folder / "model.safetensors", dict(published.MOSHI), "cpu", torch.float32)
    path = tmp_path / "lora.safetensors"
    theirs = get_lora_moshi(theirs, path, LORA.rank, LORA.scaling, torch.float32, "cpu", fuse_lora=True)
    tokens = delayed(toy_batch(lm.config, seed=2).tokens, lm.config)[..., :-1]
    torch.testing.assert_close(logits(lm)[0], theirs.forward_text(tokens)[1][:, 0], rtol=0, atol=1e-4)


def test_merging_leaves_the_names(tmp_path: Path) -> None:
    """The merged state dict has the names of a model without adapters."""
    folder = base_folder(tmp_path, published.MOSHI)
    names = set(load_language_model(folder, "cpu", torch.float32).state_dict())
    assert set(merged(adapted(folder))) == names
