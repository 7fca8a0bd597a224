"""What the reference package writes is read, and computes what the reference computes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model_runtime.checkpoint import load_language_model, load_mimi, load_moshi
from model_runtime.errors import CheckpointError
from model_runtime.lm.delays import TokenGrid
from model_runtime.lm.language_model import LanguageModel
from tests.model_runtime.checkpoint import published

pytestmark = pytest.mark.usefixtures("oracle")

STEPS = 20
"""More than the context of 12."""


def columns(keys: dict[str, Any], slots: int = 2) -> Tensor:
    """Random grid columns ``[B, K, T]``."""
    random = torch.Generator().manual_seed(3)
    tokens = torch.randint(keys["card"], (slots, 1 + keys["n_q"], STEPS), generator=random)
    tokens[:, 0] = torch.randint(keys["text_card"], (slots, STEPS), generator=random)
    return tokens


def relative(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


def assert_equal_logits(lm: LanguageModel, theirs: nn.Module, keys: dict[str, Any], bound: float = 1e-5) -> None:
    """Teacher-forced logits of the text and of the depth steps are the reference's."""
    tokens = columns(keys)
    hidden, text = lm(tokens)
    their_hidden, their_text = theirs.forward_text(tokens)
    assert relative(text, their_text[:, 0]) <= bound
    steps = lm.config.dep_q
    if steps:
        expected = theirs.forward_depformer_training(tokens, their_hidden)  # [B, dep_q, T, card]
        rows = tokens.transpose(1, 2).flatten(0, 1)
        ours = lm.depth_logits(hidden.flatten(0, 1), rows[:, 0], rows[:, 1 : 1 + steps])
        assert relative(ours.view(2, STEPS, steps, -1).permute(0, 2, 1, 3), expected[:, :steps]) <= bound


@pytest.mark.parametrize("keys", [published.MOSHI, published.NEWER, published.HALVES, published.STT])
@pytest.mark.parametrize("style", ["parts", "fused"])
def test_both_key_styles_of_every_shape(keys: dict[str, Any], style: str, tmp_path: Path) -> None:
    """A model that the reference wrote, in either style of keys, has the reference's logits within 1e-5."""
    theirs = published.reference_lm(keys)
    weights = theirs.state_dict()
    path = published.write(tmp_path, weights if style == "parts" else published.fused(weights), keys)
    assert_equal_logits(load_language_model(path, "cpu", torch.float32), theirs, keys)


def test_grouped_heads_stream_as_they_compute_in_one_pass(tmp_path: Path) -> None:
    """Shared heads of keys and values step, past the ring's capacity, to the logits of one pass."""
    keys = published.NEWER
    lm = load_language_model(
        published.write(tmp_path, published.reference_lm(keys).state_dict(), keys), "cpu", torch.float32
    )
    tokens = columns(keys)
    state, everyone = lm.new_state(2), torch.ones(2, dtype=torch.bool)
    stepped = torch.stack([lm.step(tokens[..., t], state, everyone)[1] for t in range(STEPS)], 1)
    assert relative(stepped, lm(tokens)[1]) <= 1e-5


def test_speech_to_text_has_extra_heads(tmp_path: Path) -> None:
    """A model that generates no audio has its extra heads, also where config.json does not tell of them."""
    theirs = published.reference_lm(published.STT)
    keys = {key: value for key, value in published.STT.items() if not key.startswith("extra_heads")}
    lm = load_language_model(
        published.write(tmp_path, theirs.state_dict(), keys | {"model_type": "stt"}), "cpu", torch.float32
    )
    hidden, _ = theirs.forward_text(columns(keys))
    expected = torch.stack([head(hidden[:, -1]).softmax(-1) for head in theirs.extra_heads], 1)  # [B, 4, 6]
    torch.testing.assert_close(lm.extra(lm(columns(keys))[0][:, -1]), expected)
    assert lm.generate_codes(hidden[:, -1], torch.zeros(2, dtype=torch.long), lambda _, x: x.argmax(-1)).shape == (2, 0)


def test_speech_to_text_streams_as_the_reference(tmp_path: Path) -> None:
    """Greedy text, step by step through the token grid and with gaps in the slots, is the reference's."""
    from moshi.models.lm import LMGen

    theirs = published.reference_lm(published.STT)
    path = published.write(tmp_path, theirs.state_dict(), published.STT | {"model_type": "stt"})
    lm = load_language_model(path, "cpu", torch.float32)
    grid = TokenGrid(lm.config, torch.device("cpu"))
    state, cells = lm.new_state(3), grid.new_state(3)
    generator = LMGen(theirs, use_sampling=False, support_out_of_sync=True, condition_tensors={})
    random = torch.Generator().manual_seed(6)
    said: set[int] = set()
    with generator.streaming(3):
        for _ in range(60):
            mask = torch.rand(3, generator=random) < 0.7
            codes = torch.randint(published.STT["card"], (3, 8), generator=random)
            generator.set_exec_mask(mask)
            expected = generator.step(codes[..., None])[:, 0, 0]
            grid.hear(cells, codes, mask)
            text = lm.step(grid.inputs(cells, mask), state, mask)[1].argmax(-1)
            grid.say(cells, text, text.new_empty(3, 0), mask)
            assert torch.equal(text[mask], expected[mask])
            said |= set(text[mask].tolist())
    assert len(said) > 20


def test_a_translator_is_conditioned_as_in_the_reference(tmp_path: Path) -> None:
    """The grade that the reference adds to every step's input is in the text embedding, and EOS is PAD."""
    from moshi.run_inference import get_condition_tensors

    keys = published.HIBIKI
    theirs = published.reference_lm(keys)
    weights = theirs.state_dict()
    lm = load_language_model(published.write(tmp_path, weights, keys | {"model_type": "hibiki"}), "cpu", torch.float32)
    theirs.text_emb.weight[2] = theirs.text_emb.weight[3]
    grade = theirs.fuser.get_sum(get_condition_tensors("hibiki", theirs, 2, 1.0))
    tokens = columns(keys)
    tokens[0, 0, 5] = 2
    expected = theirs.forward_text(tokens, grade)[1][:, 0]
    assert relative(lm(tokens)[1], expected) <= 1e-5
    assert relative(lm(tokens)[1], theirs.forward_text(tokens)[1][:, 0]) > 1e-3
    del weights["condition_provider.conditioners.description.output_proj.weight"]
    with pytest.raises(CheckpointError, match=r"missing \(1\): condition_provider.*output_proj"):
        load_language_model(published.write(tmp_path, weights, keys | {"model_type": "hibiki"}))


@pytest.mark.parametrize("style", ["parts", "fused"])
@pytest.mark.parametrize("with_config", [True, False])
def test_personaplex_is_cut_to_the_steps_that_matter(style: str, with_config: bool, tmp_path: Path) -> None:
    """A file of 16 depth steps is loaded as 8, whose greedy codes are the first 8 of the 16-step model's."""
    theirs = published.reference_lm(published.PERSONAPLEX)
    weights = theirs.state_dict()
    weights = weights if style == "parts" else published.fused(weights)
    keys = published.PERSONAPLEX if with_config else published.MOSHI | {"model_type": "personaplex", "version": "7b-v1"}
    lm = load_language_model(published.write(tmp_path, weights, keys), "cpu", torch.float32)
    assert lm.config.dep_q == 8
    assert_equal_logits(lm, theirs, published.PERSONAPLEX)
    hidden, text = theirs.forward_text(columns(keys))
    drawn = text[:, 0].argmax(-1).flatten()  # [B * T]
    rows = hidden.flatten(0, 1)
    ours = lm.generate_codes(rows, drawn, lambda _, logits: logits.argmax(-1))
    previous, expected = drawn, []
    with theirs.depformer.streaming(len(rows)):
        for k in range(16):
            logits = theirs.forward_depformer(k, previous[:, None, None], rows[:, None])
            previous = logits[:, 0, 0].argmax(-1)
            expected.append(previous)
    assert torch.equal(ours, torch.stack(expected[:8], 1))
    assert len(ours.unique()) > 30


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    """Every tensor is of the type that was asked for, and the logits are float32's within its resolution."""
    theirs = published.reference_lm(published.MOSHI)
    stored = {name: tensor.to(torch.bfloat16) for name, tensor in theirs.state_dict().items()}
    lm = load_language_model(published.write(tmp_path, stored, published.MOSHI), "cpu", dtype)
    assert {tensor.dtype for tensor in lm.state_dict().values()} == {dtype}
    text = lm(columns(published.MOSHI))[1].float()
    assert relative(text, theirs.forward_text(columns(published.MOSHI))[1][:, 0]) <= 0.05


def test_codec_and_whole_model(tmp_path: Path) -> None:
    """A whole folder is loaded: the codec codes as the reference's does, also under old names of its buffers."""
    mimi = published.reference_mimi()
    theirs = published.reference_lm(published.MOSHI)
    old = {
        name.replace("_initialized", "inited")
        .replace("cluster_usage", "cluster_size")
        .replace("embedding_sum", "embed_avg"): tensor
        for name, tensor in published.fused(mimi.state_dict()).items()
    }
    audio = torch.randn(1, 1, 8 * 1920, generator=torch.Generator().manual_seed(1)) * 0.3
    for folder, weights in (("new", mimi.state_dict()), ("old", old)):
        path = published.write(tmp_path / folder, theirs.state_dict(), published.MOSHI, mimi=weights)
        assert torch.equal(load_mimi(path, "cpu").encode(audio), mimi.encode(audio))
        moshi, tokenizer = load_moshi(path, "cpu", torch.float32, slots=2)
        step = moshi.step(torch.zeros(2, 1, 1920), torch.ones(2, dtype=torch.bool))
        assert step.tokens.shape == (2, 17)
        assert tokenizer.vocab_size <= 320
