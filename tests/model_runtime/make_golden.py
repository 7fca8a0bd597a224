"""Asks the reference package (moshi 0.2.13) the cases of golden_cases.py and writes its answers to golden/.

    NO_TORCH_COMPILE=1 python -m tests.model_runtime.make_golden

Seeds are tried until no choice the reference made was a close one: a token that wins by less than rounding may turn on
another processor, and the files are to hold on all.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from tests.model_runtime import golden_cases as cases
from tests.model_runtime.reference import reference_lm, reference_mimi

MARGIN = 2e-5
"""By how much, relative to the largest, each choice must have been made; float32 rounds to about 1e-6 here."""

Arrays = dict[str, NDArray[np.generic]]


def margin(scores: Tensor) -> float:
    """By how much the greatest score of each row leads, at the least, relative to the largest of all."""
    first, second = scores.float().topk(2, -1).values.unbind(-1)
    return float((first - second).min() / scores.abs().max())


def teacher_forced(seed: int) -> Arrays:
    """Logits of one pass over given columns, in float32 and in bfloat16."""
    with torch.device("meta"):
        shapes = LanguageModel(cases.LM)
    model = reference_lm(cases.LM, cases.weights(shapes, seed))
    columns = cases.columns()
    hidden, text = model.forward_text(columns)
    depth = model.forward_depformer_training(columns, hidden)  # [B, dep_q, T, card]
    half = model.to(torch.bfloat16).forward_text(columns)[1]
    return {
        "text": text[:, 0].numpy(),
        "depth": depth[:, :, :: cases.EVERY].numpy(),
        "text_bfloat16": half[:, 0].view(torch.int16).numpy(),
    }


def streaming(seed: int) -> tuple[Arrays, float]:
    """Greedy tokens and logits of the stepped model, and the closest choice made."""
    from moshi.models import lm as reference

    with torch.device("meta"):
        shapes = LanguageModel(cases.LM)
    model = reference_lm(cases.LM, cases.weights(shapes, seed))
    text_logits: list[Tensor] = []
    generator = reference.LMGen(
        model,
        use_sampling=False,
        support_out_of_sync=True,
        on_text_logits_hook=lambda logits: text_logits.append(logits[:, 0, 0]),
    )
    tokens, depth_logits, closest = [], [], 1.0
    with generator.streaming(cases.LM_SLOTS), _logits_of_depth_steps() as seen:
        for step in cases.stream():
            if step.reset.any():
                generator.reset_streaming(step.reset)
            generator.set_exec_mask(step.mask)
            tokens.append(generator.step(step.user[..., None])[..., 0])
            depth = torch.stack(seen[-cases.LM.dep_q :], 1)  # [B, dep_q, card]
            seen.clear()
            depth_logits.append(depth)
            if step.mask.any():
                closest = min(closest, margin(text_logits[-1][step.mask]), margin(depth[step.mask]))
    return {
        "tokens": torch.stack(tokens).short().numpy(),
        "text": torch.stack(text_logits)[:: cases.EVERY].numpy(),
        "depth": torch.stack(depth_logits)[:: 3 * cases.EVERY].numpy(),
    }, closest


@contextmanager
def _logits_of_depth_steps() -> Iterator[list[Tensor]]:
    """Note the logits that the reference samples from; those of the depth steps are the last of each step."""
    from moshi.models import lm as reference

    seen: list[Tensor] = []
    sample = reference.sample_token

    def noting(logits: Tensor, *args: object, **kwargs: object) -> Tensor:
        seen.append(logits.flatten(1))
        return sample(logits, *args, **kwargs)

    reference.sample_token = noting
    try:
        yield seen
    finally:
        reference.sample_token = sample


def codec(seed: int) -> tuple[Arrays, float]:
    """Codes and audio of more than 12 s, streaming and in one pass, and the closest choice made."""
    ours = Mimi(cases.MIMI)
    weights = cases.weights(ours, seed)
    audio = cases.recording()
    offline = reference_mimi(cases.MIMI, weights)
    codes = offline.encode(audio)
    said = offline.decode(codes)
    encoder, decoder = reference_mimi(cases.MIMI, weights), reference_mimi(cases.MIMI, weights)
    with encoder.streaming(cases.MIMI_SLOTS), _distances(encoder) as closest:
        streamed = torch.cat([encoder.encode(frame) for frame in audio.split(1920, -1)], -1)
    with decoder.streaming(cases.MIMI_SLOTS):
        spoken = torch.cat([decoder.decode(streamed[..., t : t + 1]) for t in range(cases.MIMI_FRAMES)], -1)
    return {
        "codes_offline": codes.byte().numpy(),
        "audio_offline": said[:, 0, :: cases.PCM_STRIDE].numpy(),
        "codes_streaming": streamed.byte().numpy(),
        "audio_streaming": spoken[:, 0, :: cases.PCM_STRIDE].numpy(),
    }, min(closest)


@contextmanager
def _distances(model: torch.nn.Module) -> Iterator[list[float]]:
    """Note how close the second nearest centroid of every code was."""
    closest = [1.0]
    hooks = []

    def note(codebook: torch.nn.Module, x: Tensor) -> None:
        distances = torch.cdist(x.flatten(0, -2), codebook.embedding)
        closest.append(margin(-distances))

    for module in model.modules():
        if type(module).__name__ == "EuclideanCodebook":
            original = module.encode

            def encode(x: Tensor, codebook: torch.nn.Module = module, original: object = original) -> Tensor:
                note(codebook, x)
                return original(x)  # type: ignore[operator]

            module.encode = encode
            hooks.append(module)
    try:
        yield closest
    finally:
        for module in hooks:
            del module.encode


@torch.no_grad()
def main() -> None:
    """Write the files and say how close the closest choices were."""
    cases.FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(cases.FOLDER / "lm_teacher_forced.npz", seed=1, **teacher_forced(1))
    for name, ask in (("lm_streaming", streaming), ("mimi", codec)):
        for seed in itertools.count(1):
            arrays, closest = ask(seed)
            print(f"{name}: seed {seed}: closest choice {closest:.1e}")
            if closest > MARGIN:
                break
        np.savez_compressed(cases.FOLDER / f"{name}.npz", seed=seed, **arrays)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
