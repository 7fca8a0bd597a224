from collections.abc import Generator
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from model_runtime.checkpoint.config import LanguageModelConfig
from model_runtime.greeting import Greetings, encode_recording
from model_runtime.lm.delays import NOT_FORCED
from model_runtime.mimi.codec import Mimi
from model_runtime.speech_plan import Row, plan_speech
from model_runtime.text import PAD, TextTokenizer
from model_runtime.tiny import TOKENIZER


def recording(samples: int) -> Tensor:
    """Noise of 16 bits, -1 .. 1."""
    random = torch.Generator().manual_seed(3)
    return torch.randint(-8_000, 8_000, (samples,), generator=random) / 32_768


def pcm(samples: Tensor) -> bytes:
    """The same as int16."""
    return bytes((samples * 32_768).to(torch.int16).numpy().tobytes())


T = TypeVar("T")


def finished(pieces: Generator[None, None, T]) -> tuple[int, T]:
    """How many pieces there were, and the result."""
    count = 0
    while True:
        try:
            next(pieces)
        except StopIteration as done:
            result: T = done.value
            return count, result
        count += 1


@pytest.mark.parametrize("samples", [1, 1_920, 1_921, 30 * 1_920, 90 * 1_920 - 7])
@torch.inference_mode()
def test_codes_are_those_of_one_pass(small_mimi: Mimi, samples: int) -> None:
    """Encoded in pieces, past the rings' ends, a recording has the codes of an offline encoding of it and silence."""
    audio = recording(samples)
    frames = -(-samples // 1_920)
    whole = torch.nn.functional.pad(audio, (0, frames * 1_920 - samples))
    pieces, codes = finished(encode_recording(small_mimi, audio))
    assert torch.equal(codes, small_mimi.encode(whole[None, None])[0].T)
    assert pieces == -(-frames // 25)


@pytest.fixture
def greetings(small_mimi: Mimi) -> Greetings:
    """Of a model whose codec has as many codes as the tokenizer's model."""
    return Greetings(LanguageModelConfig(), small_mimi, TextTokenizer(TOKENIZER))


def own(plan: list[Row], codes: Tensor) -> bool:
    """Whether a plan forces these codes ``[F, 8]``, with Moshi's delays, and nothing beside them."""
    rows = torch.tensor(plan)
    semantic, acoustic = rows[:, 1], rows[:, 2:]
    return (
        torch.equal(semantic[:-1], codes[:, 0])
        and torch.equal(acoustic[1:], codes[:, 1:])
        and bool((semantic[-1:] == NOT_FORCED).all() and (acoustic[0] == NOT_FORCED).all())
    )


@torch.inference_mode()
def test_a_recording_is_planned_once(greetings: Greetings, small_mimi: Mimi) -> None:
    """Its codes are forced, with its words; they are computed at its first use, whatever the words are."""
    audio = recording(20 * 1_920)
    codes = small_mimi.encode(audio[None, None])[0].T
    pieces, plan = finished(greetings.plan("good morning", pcm(audio)))
    assert pieces == 1
    assert own(plan, codes)
    tokenizer = TextTokenizer(TOKENIZER)
    assert "".join(tokenizer.piece(row[0]) for row in plan) == " good morning"
    pieces, plan = finished(greetings.plan("", pcm(audio)))
    assert pieces == 0
    assert own(plan, codes)
    assert {row[0] for row in plan[:-1]} == {PAD}


def test_the_oldest_recording_is_forgotten(greetings: Greetings) -> None:
    """No more than 32 are kept."""
    for n in range(33):
        finished(greetings.plan("", bytes(2 + 2 * n)))
    assert finished(greetings.plan("", bytes(4)))[0] == 0
    assert finished(greetings.plan("", bytes(2)))[0] == 1


def test_a_text_alone_has_no_codes(greetings: Greetings) -> None:
    """Without a recording the words take their own time, and the voice is drawn."""
    assert finished(greetings.plan("good morning", b"")) == (0, plan_speech("good morning", TextTokenizer(TOKENIZER)))
    assert finished(greetings.plan("", b"")) == (0, [])
