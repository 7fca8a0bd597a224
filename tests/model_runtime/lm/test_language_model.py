from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.lm.language_model import LanguageModel
from model_runtime.state import reset_slot, slot_tensors

STEPS = 40
"""More than three times the small model's context of 12, so every ring has wrapped."""


def columns(config: LanguageModelConfig, slots: int = 3) -> Tensor:
    """Random grid columns ``[B, K, T]``."""
    random = torch.Generator().manual_seed(3)
    tokens = torch.randint(config.card, (slots, config.streams, STEPS), generator=random)
    tokens[:, 0] %= config.text_card
    tokens[..., 0] = torch.tensor([config.text_initial] + [config.audio_initial] * config.n_q)
    return tokens


def relative(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    return float((actual - expected).abs().max() / expected.abs().max())


def test_teacher_forced_logits_equal_reference(small_lm: LanguageModel, reference_lm: nn.Module) -> None:
    """Text logits and the logits of each depth step are the reference's within 1e-5."""
    tokens = columns(small_lm.config)
    hidden, text_logits = small_lm(tokens)
    their_hidden, their_logits = reference_lm.forward_text(tokens)
    assert relative(hidden, their_hidden) <= 1e-5
    assert relative(text_logits, their_logits[:, 0]) <= 1e-5
    theirs = reference_lm.forward_depformer_training(tokens, their_hidden)  # [B, dep_q, T, card]
    rows = tokens.transpose(1, 2).flatten(0, 1)  # [B * T, K]
    ours = small_lm.depth_logits(hidden.flatten(0, 1), rows[:, 0], rows[:, 1 : 1 + small_lm.config.dep_q])
    assert relative(ours.view(3, STEPS, 8, -1).permute(0, 2, 1, 3), theirs) <= 1e-5


def test_streaming_equals_offline(small_lm: LanguageModel) -> None:
    """Stepping, one position at a time and past the ring's capacity, gives the logits of one pass."""
    tokens = columns(small_lm.config)
    _, expected = small_lm(tokens)
    state = small_lm.new_state(3)
    everyone = torch.ones(3, dtype=torch.bool)
    logits = torch.stack([small_lm.step(tokens[..., t], state, everyone)[1] for t in range(STEPS)], 1)
    assert relative(logits, expected) <= 1e-5


def test_slots_step_independently(small_lm: LanguageModel) -> None:
    """Slots with gaps of their own give the logits of one pass, and masked steps leave no trace."""
    tokens = columns(small_lm.config)
    _, expected = small_lm(tokens)
    state = small_lm.new_state(3)
    random = torch.Generator().manual_seed(4)
    done = torch.zeros(3, dtype=torch.long)
    while done.max() < STEPS - 1:
        mask = torch.rand(3, generator=random) < 0.6
        before = [tensor[~mask].clone() for tensor in slot_tensors(state)]
        _, logits = small_lm.step(tokens[torch.arange(3), :, done], state, mask)
        assert all(torch.equal(a, b[~mask]) for a, b in zip(before, slot_tensors(state), strict=True))
        assert logits.isfinite().all()
        assert not mask.any() or relative(logits[mask], expected[torch.arange(3), done][mask]) <= 1e-5
        done += mask


def test_generated_codes_follow_the_logits(small_lm: LanguageModel) -> None:
    """Choosing greedily step by step gives codes that are the teacher-forced logits' own maxima."""
    hidden, _ = small_lm(columns(small_lm.config))
    rows, text = hidden.flatten(0, 1), torch.arange(3 * STEPS) % small_lm.config.text_card
    codes = small_lm.generate_codes(rows, text, lambda _, logits: logits.argmax(-1))
    assert torch.equal(codes, small_lm.depth_logits(rows, text, codes).argmax(-1))


def test_bfloat16_stays_near_float32(small_lm: LanguageModel) -> None:
    """In bfloat16 the logits are float32's within its resolution, streaming as in one pass."""
    tokens = columns(small_lm.config)
    _, expected = small_lm(tokens)
    half = small_lm.to(torch.bfloat16)
    assert half(tokens)[1].dtype == torch.bfloat16
    assert relative(half(tokens)[1].float(), expected) <= 0.05
    state = half.new_state(3)
    everyone = torch.ones(3, dtype=torch.bool)
    logits = torch.stack([half.step(tokens[..., t], state, everyone)[1] for t in range(STEPS)], 1)
    assert logits.dtype == torch.float32
    assert relative(logits, expected) <= 0.05


def test_zero_token_embeds_to_nothing(small_lm: LanguageModel) -> None:
    """A token of -1 adds nothing to the input, as a row of zeros in its table would."""
    tokens = columns(small_lm.config)
    tokens[:, 5, 1:] = -1
    _, logits = small_lm(tokens)
    small_lm.emb[4].weight[: small_lm.config.card] = 0
    tokens[:, 5, 1:] = 0
    torch.testing.assert_close(small_lm(tokens)[1], logits)


def test_published_shape() -> None:
    """The published geometry has 355 tensors of the published names and 7,687,729,152 parameters."""
    with torch.device("meta"):
        lm = LanguageModel(LanguageModelConfig())
    names = lm.state_dict()
    assert len(names) == 355
    assert sum(parameter.numel() for parameter in lm.parameters()) == 7_687_729_152
    shapes = {
        "text_emb.weight": (32001, 4096),
        "out_norm.alpha": (1, 1, 4096),
        "transformer.layers.31.self_attn.in_proj_weight": (12288, 4096),
        "transformer.layers.31.gating.linear_in.weight": (22528, 4096),
        "depformer.layers.5.self_attn.in_proj_weight": (24576, 1024),
        "depformer.layers.5.self_attn.out_proj.weight": (8192, 1024),
        "depformer.layers.5.gating.7.linear_out.weight": (1024, 2816),
        "depformer_emb.6.weight": (2049, 1024),
        "linears.7.weight": (2048, 1024),
    }
    assert {name: tuple(names[name].shape) for name in shapes} == shapes


def test_delays_must_fit_the_streams() -> None:
    """A configuration whose delays do not match its streams is refused."""
    with pytest.raises(ValueError, match="17 non-negative"):
        LanguageModelConfig(delays=(0, 1))


def convolving(config: LanguageModelConfig) -> LanguageModel:
    """A model with convolutions over the caller's stream, and numbers drawn anew."""
    lm = LanguageModel(replace(config, user_convolutions=(1, 2, 4)))
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * parameter.shape[-1] ** -0.5)
    return lm.eval()


@torch.no_grad()
def test_convolutions_stream_as_they_are_offline(small_lm: LanguageModel) -> None:
    """Slots with gaps of their own, one of them reset half-way, hear what a whole pass hears."""
    lm = convolving(small_lm.config)
    tokens = columns(lm.config)
    _, expected = lm(tokens)
    state = lm.new_state(3)
    random = torch.Generator().manual_seed(4)
    done = torch.zeros(3, dtype=torch.long)
    for turn in range(3 * STEPS):
        if turn == STEPS:
            reset_slot(state, 1)
            assert not any(each[1].any() for each in state.user)
            done[1] = 0
        mask = (torch.rand(3, generator=random) < 0.6) & (done < STEPS)
        _, logits = lm.step(tokens[torch.arange(3), :, done.clamp(max=STEPS - 1)], state, mask)
        for slot in mask.nonzero().squeeze(1).tolist():
            assert relative(logits[slot], expected[slot, done[slot]]) <= 1e-5, (turn, slot)
            done[slot] += 1
    assert (done == STEPS).all()


@torch.no_grad()
def test_convolutions_hear_only_the_caller_and_the_past(small_lm: LanguageModel) -> None:
    """What the agent says is not convolved, and no frame changes what came before it."""
    lm = convolving(small_lm.config)
    tokens = columns(lm.config)
    user = tokens[:, 1 + lm.config.own_q :]
    heard = lm.hear(user)
    later = user.clone()
    later[..., 20] = (later[..., 20] + 1) % lm.config.card
    differs = (lm.hear(later) != heard).any(-1).any(0)
    assert differs.nonzero().flatten().tolist()[0] == 20
    assert differs[20:35].all()  # 1 + 2 * (1 + 2 + 4) frames
    assert not differs[35:].any()
