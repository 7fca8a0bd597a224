"""Parity with the reference package, from files of its answers (make_golden.py): nothing of it is needed here."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model_runtime.lm.delays import TokenGrid
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.state import reset_slot
from tests.model_runtime import golden_cases as cases


def golden(name: str) -> dict[str, Tensor]:
    """What the reference answered, and ``seed``, that of the weights."""
    with np.load(cases.FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def loaded(module: Any, seed: Tensor) -> Any:
    """The module with the weights of the case."""
    module.load_state_dict(cases.weights(module, int(seed)))
    return module.eval().requires_grad_(False)


def relative(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    return float((actual.float() - expected.float()).abs().max() / expected.abs().max())


@torch.no_grad()
def test_teacher_forced_logits() -> None:
    """Text logits and the logits of each depth step are the reference's within 1e-5."""
    expected = golden("lm_teacher_forced")
    lm: LanguageModel = loaded(LanguageModel(cases.LM), expected["seed"])
    tokens = cases.columns()
    hidden, text = lm(tokens)
    assert relative(text, expected["text"]) <= 1e-5
    rows = tokens.transpose(1, 2).flatten(0, 1)  # [B * T, K]
    depth = lm.depth_logits(hidden.flatten(0, 1), rows[:, 0], rows[:, 1 : 1 + cases.LM.dep_q])
    depth = depth.view(cases.LM_SLOTS, cases.LM_COLUMNS, cases.LM.dep_q, -1).transpose(1, 2)  # [B, dep_q, T, card]
    assert relative(depth[:, :, :: cases.EVERY], expected["depth"]) <= 1e-5


@torch.no_grad()
def test_bfloat16_is_as_near_as_the_reference() -> None:
    """In bfloat16 we are as near to float32 as the reference is in bfloat16, and as near to it."""
    expected = golden("lm_teacher_forced")
    lm: LanguageModel = loaded(LanguageModel(cases.LM), expected["seed"]).to(torch.bfloat16)
    ours, theirs, exact = lm(cases.columns())[1], expected["text_bfloat16"].view(torch.bfloat16), expected["text"]
    assert ours.dtype == torch.bfloat16
    assert relative(theirs, exact) <= 0.03
    assert relative(ours, exact) <= 0.03
    assert relative(ours, theirs) <= 0.03
    spread = (ours.float() - exact).std() / (theirs.float() - exact).std()
    assert spread <= 1.2


@torch.no_grad()
def test_greedy_stream() -> None:
    """200 steps of slots that come, go and begin anew: every token the reference's, every logit within 1e-4."""
    expected = golden("lm_streaming")
    lm: LanguageModel = loaded(LanguageModel(cases.LM), expected["seed"])
    grid = TokenGrid(cases.LM, torch.device("cpu"))
    state, grid_state = lm.new_state(cases.LM_SLOTS), grid.new_state(cases.LM_SLOTS)
    depth: list[Tensor] = []

    def greedy(_: int, logits: Tensor) -> Tensor:
        depth.append(logits)
        return logits.argmax(-1)

    for n, step in enumerate(cases.stream()):
        for slot in step.reset.nonzero().flatten().tolist():
            reset_slot(state, slot)
            reset_slot(grid_state, slot)
        mask = step.mask
        grid.hear(grid_state, step.user, mask)
        hidden, logits = lm.step(grid.inputs(grid_state, mask), state, mask)
        text = logits.argmax(-1)
        depth.clear()
        codes = lm.generate_codes(hidden, text, greedy)
        tokens, ready = grid.say(grid_state, text, codes, mask)
        theirs = expected["tokens"][n]
        assert torch.equal(ready, theirs[:, 0] >= 0), n
        assert torch.equal(tokens[:, : 1 + cases.LM.dep_q], theirs.long()), n
        if n % cases.EVERY == 0 and mask.any():
            assert relative(logits[mask], expected["text"][n // cases.EVERY][mask]) <= 1e-4
        if n % (3 * cases.EVERY) == 0 and mask.any():
            seen = expected["depth"][n // (3 * cases.EVERY)]  # [B, dep_q, card]
            assert relative(torch.stack(depth, 1)[mask], seen[mask]) <= 1e-4


@pytest.fixture(scope="module")
def codec() -> tuple[Mimi, dict[str, Tensor]]:
    """The codec of the case, and what the reference answered."""
    expected = golden("mimi")
    return loaded(Mimi(cases.MIMI), expected["seed"]), expected


@pytest.mark.parametrize(("ring", "answer"), [(None, "streaming"), (cases.MIMI.context + 1, "offline")])
@torch.inference_mode()
def test_codec_stream(codec: tuple[Mimi, dict[str, Tensor]], ring: int | None, answer: str) -> None:
    """12.8 s frame by frame: every code the reference's, the audio within 1e-4.

    With the deployed ring of 250 it is the reference's streaming, with one larger its one pass over the recording.
    """
    mimi, expected = codec
    encoding, decoding = mimi.new_encoder_state(cases.MIMI_SLOTS, ring), mimi.new_decoder_state(cases.MIMI_SLOTS, ring)
    everyone = torch.ones(cases.MIMI_SLOTS, dtype=torch.bool)
    codes = expected[f"codes_{answer}"].long()
    said = []
    for t, frame in enumerate(cases.recording().split(1920, -1)):
        assert torch.equal(mimi.encode_step(frame, encoding, everyone), codes[..., t]), t
        said.append(mimi.decode_step(codes[..., t], decoding, everyone)[:, 0])
    assert relative(torch.cat(said, -1)[:, :: cases.PCM_STRIDE], expected[f"audio_{answer}"]) <= 1e-4


@torch.inference_mode()
def test_codec_in_one_pass(codec: tuple[Mimi, dict[str, Tensor]]) -> None:
    """12.8 s at once: every code the reference's, the audio within 1e-4."""
    mimi, expected = codec
    codes = mimi.encode(cases.recording())
    assert torch.equal(codes, expected["codes_offline"].long())
    assert relative(mimi.decode(codes)[:, 0, :: cases.PCM_STRIDE], expected["audio_offline"]) <= 1e-4


def test_the_two_ways_differ() -> None:
    """The codec's files would tell the rings apart: the reference's streaming leaves its offline result after 10 s."""
    expected = golden("mimi")
    same = (expected["codes_streaming"] == expected["codes_offline"]).all(1)  # [B, T]
    assert same[:, :125].all()
    assert (~same[:, 125:]).sum() >= 3


def test_the_files_are_what_the_reference_says(oracle: None) -> None:
    """Where the reference package is at hand, it answers the language model's cases as the files say."""
    from tests.model_runtime import make_golden

    expected = golden("lm_teacher_forced")
    with torch.no_grad():
        answers = make_golden.teacher_forced(int(expected["seed"]))
    for name in ("text", "depth"):
        torch.testing.assert_close(torch.from_numpy(answers[name]), expected[name], rtol=0, atol=1e-5)
    expected = golden("lm_streaming")
    answers, closest = make_golden.streaming(int(expected["seed"]))
    assert torch.equal(torch.from_numpy(answers["tokens"]), expected["tokens"])
    assert closest > make_golden.MARGIN / 2
