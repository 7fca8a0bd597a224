"""What the golden files were made with: small models, their weights, and what they are given.

Everything is drawn by numpy's legacy generator, whose numbers are fixed for ever, so that the files need to hold only
what the reference answered. Every draw is seeded by its name: order and torch's version do not matter.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig, SeanetConfig

FOLDER = Path(__file__).parent / "golden"

MIMI = MimiConfig(
    seanet=SeanetConfig(dimension=32, n_filters=4),
    num_heads=4,
    num_layers=2,
    dim_feedforward=48,
    context=250,  # the published one: 10 s
    codebook_dim=16,
    bins=64,
    n_q=8,
)
MIMI_FRAMES = 160
"""12.8 s: the rings of 10 s have been full for 35 frames."""
MIMI_SLOTS = 2
SHARPNESS = 3.0
"""Of the codec's attention: so that one key of 250 matters, and the ring's size shows."""
PCM_STRIDE = 211
"""One sample in so many is kept of the decoded audio; prime, so that every place within a frame has its turn."""

LM = LanguageModelConfig(
    dim=64,
    num_heads=4,
    num_layers=2,
    context=12,
    text_card=50,
    card=64,
    depformer_dim=32,
    depformer_num_heads=4,
    depformer_num_layers=2,
    depformer_dim_feedforward=132,
)
LM_SLOTS = 3
LM_COLUMNS = 40
"""Of the teacher-forced case."""
LM_STEPS = 200
"""Of the streaming case."""
LM_RESETS = {60: 1, 61: 0, 130: 2}
"""Which slot begins anew before which step."""
EVERY = 8
"""Logits are kept of one step in so many."""


def draw(name: str, *shape: int) -> NDArray[np.float32]:
    """Normal numbers that belong to the name."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def integers(name: str, high: int, *shape: int) -> NDArray[np.int64]:
    """Whole numbers below ``high`` that belong to the name."""
    return np.random.RandomState(zlib.crc32(name.encode())).randint(0, high, shape).astype(np.int64)


def weights(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """A value for every tensor of the module, by its published name, at a scale that keeps signals alive."""
    values = {}
    for name, tensor in module.state_dict().items():
        drawn = torch.from_numpy(draw(f"{seed} {name}", *tensor.shape))
        if name.endswith("_initialized"):
            drawn = torch.ones(tensor.shape)
        elif name.endswith("cluster_usage"):
            drawn = 0.5 + drawn.abs()
        elif name.endswith((".alpha", ".scale")):
            drawn = 0.5 + 0.2 * drawn
        elif name.endswith("bias"):
            drawn = 0.02 * drawn  # a greater one would drown the signal, and every frame have the same codes
        elif "norm" in name:
            drawn = 1 + 0.2 * drawn
        elif not name.endswith("embedding_sum"):
            drawn = drawn / tensor[0].numel() ** 0.5
        if "coder_transformer" in name and name.endswith("in_proj_weight"):
            drawn = drawn * SHARPNESS
        values[name] = drawn
    return values


def recording() -> Tensor:
    """Noise ``[B, 1, T * 1920]`` whose loudness differs between slots and over time."""
    loudness = np.linspace(0.02, 0.5, MIMI_FRAMES).repeat(1920).astype(np.float32)
    return torch.from_numpy(draw("recording", MIMI_SLOTS, 1, MIMI_FRAMES * 1920) * loudness)


def columns() -> Tensor:
    """Grid columns ``[B, K, T]`` of the teacher-forced case."""
    tokens = torch.from_numpy(integers("columns", LM.card, LM_SLOTS, LM.streams, LM_COLUMNS))
    tokens[:, 0] %= LM.text_card
    tokens[..., 0] = torch.tensor([LM.text_initial] + [LM.audio_initial] * LM.n_q)
    return tokens


@dataclass(frozen=True)
class StreamStep:
    """What a step of the streaming case is given."""

    reset: Tensor  # [B] bool: slots that begin anew before it
    mask: Tensor  # [B] bool: slots that take part
    user: Tensor  # [B, 8] int64: what the callers' frames were coded to


def stream() -> list[StreamStep]:
    """The streaming case: slots take part in seven of ten steps and begin anew now and then."""
    user = torch.from_numpy(integers("user", LM.card, LM_STEPS, LM_SLOTS, LM.n_q - LM.dep_q))
    masks = torch.from_numpy(integers("masks", 10, LM_STEPS, LM_SLOTS) < 7)
    slots = torch.arange(LM_SLOTS)
    return [StreamStep(slots == LM_RESETS.get(n, -1), masks[n], user[n]) for n in range(LM_STEPS)]
