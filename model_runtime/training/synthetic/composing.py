"""Dialogues composed of stored codes. Pure; fast enough to be done while training."""

from math import ceil

import numpy as np
import torch
from torch import Tensor

from config.audio import FRAME_S
from model_runtime.training.synthetic.dialogue import Dialogue, Said, plan_dialogue
from model_runtime.training.synthetic.script import World
from model_runtime.training.synthetic.store import Store, StoredCaller, StoredCast, StoredClip


def draw_dialogue(
    store: Store, world: World, random: np.random.Generator, *, late: bool
) -> tuple[Dialogue, StoredCaller]:
    """A dialogue with some caller of a store."""
    caller = store.callers[int(random.integers(len(store.callers)))]
    return plan_dialogue(world, StoredCast(store, caller), random, late=late), caller


def compose(dialogue: Dialogue, store: Store, caller: StoredCaller, random: np.random.Generator) -> Tensor:
    """The codes ``int16 [2 K, frames]`` of a dialogue: the agent's, the caller's.

    Between what is said there are codes of the agent's silence and of the caller's background, from a place drawn.
    """
    frames = dialogue.frames
    agent = _tiled(store.silence, frames, 0)
    heard = _tiled(caller.background, frames, int(random.integers(caller.background.shape[1])))
    for said in dialogue.said:
        _place(agent if said.speaker == "agent" else heard, said)
    return torch.cat([agent, heard])


def boundaries(dialogue: Dialogue, reach: int = 2) -> Tensor:
    """Frames ``bool [frames]`` around those in which the agent begins or ends."""
    near = torch.zeros(dialogue.frames, dtype=torch.bool)
    for said in dialogue.said:
        if said.speaker == "agent":
            for frame in (said.frame, ceil(said.end / FRAME_S - 1e-6)):
                near[max(0, frame - reach) : frame + reach + 1] = True
    return near


def _tiled(codes: Tensor, frames: int, first: int) -> Tensor:
    """``codes [K, F]`` over and over, from one of them on: ``[K, frames]``."""
    at = (first + torch.arange(frames)) % codes.shape[1]
    return codes[:, at]


def _place(channel: Tensor, said: Said) -> None:
    clip = said.clip
    assert isinstance(clip, StoredClip)
    codes = clip.codes
    if said.cut is not None:
        cut = round(said.cut / FRAME_S) - said.frame
        codes = torch.cat([codes[:, :cut], clip.tails[cut]], dim=1)
    there = channel[:, said.frame : said.frame + codes.shape[1]]
    there.copy_(codes[:, : there.shape[1]])
