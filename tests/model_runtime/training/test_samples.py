import logging
import wave
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.tiny import TOKENIZER
from model_runtime.training.export import export_language_model, export_mimi, export_tokenizer
from model_runtime.training.forward import TeacherForcing, delayed
from model_runtime.training.samples import converse, sampler
from model_runtime.training.stages import read_stage
from model_runtime.training.tasks import LanguageModelTask, LanguageModelTaskSettings
from model_runtime.training.train_command import train
from model_runtime.training.trainer import Data
from tests.model_runtime.training.test_stages import TOY_LM, open_toys, toy
from tests.model_runtime.training.toys import ToySource, toy_batch


def test_a_sample_is_what_the_teacher_would_have_forced() -> None:
    """Each token of the answer is the best one, given the caller and the answer itself."""
    torch.manual_seed(1)
    lm = LanguageModel(TOY_LM).eval()
    tokens = toy_batch(TOY_LM, seed=1, size=1, frames=12).tokens[0]
    said = converse(lm, tokens[9:])
    assert said.shape == (9, 11)  # the first call's caller is not heard, and acoustic codes come a step late
    columns = delayed(torch.cat([said, tokens[9:, 1:]])[None], TOY_LM)
    logits = TeacherForcing(lm)(columns)
    best = torch.cat([logits.text.argmax(-1)[:, None], logits.audio_grid().argmax(-1)], dim=1)
    spoken = columns[:, :9, 1:]
    counted = spoken < torch.tensor([TOY_LM.text_initial] + [TOY_LM.audio_initial] * 8)[:, None]
    assert torch.equal(best[counted], spoken[counted])


def checkpoint(folder: Path, mimi: Mimi | None) -> Path:
    """A language model, its tokenizer, and perhaps a codec."""
    torch.manual_seed(1)
    export_language_model(LanguageModel(TOY_LM), folder)
    if mimi is not None:
        export_mimi(mimi, folder)
    return export_tokenizer(TOKENIZER, folder)


def heard(path: Path) -> tuple[int, int]:
    """Channels and frames of a WAV file."""
    with wave.open(str(path)) as file:
        return file.getnchannels(), file.getnframes()


def test_samples_of_a_run_are_written(tmp_path: Path, small_mimi: Mimi, capsys: pytest.CaptureFixture[str]) -> None:
    """While a model trains, its answer to a held-out caller is shown as text and kept as audio, both speakers."""
    stage = toy(read_stage(Path("fine_tuning")), checkpoint(tmp_path / "base", small_mimi), sample_every=2)
    train(stage, tmp_path / "run", open_toys)
    assert "where the recording has" in capsys.readouterr().err
    assert heard(tmp_path / "run" / "samples" / "step-00000002.wav") == (2, 13 * 1920)


def test_samples_of_a_codec(tmp_path: Path) -> None:
    """A codec's sample has the original beside what came out."""
    train(toy(read_stage(Path("mimi_small")), None, sample_every=3), tmp_path, open_toys)
    assert heard(tmp_path / "samples" / "step-00000003.wav") == (2, 4 * 1920)


def test_what_a_sample_lacks_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a codec there is text alone; without a tokenizer nothing, and the log says why."""
    task = LanguageModelTask(LanguageModel(TOY_LM), LanguageModelTaskSettings())
    data = Data(
        ToySource(lambda seed: toy_batch(TOY_LM, seed)), lambda: ToySource(lambda seed: toy_batch(TOY_LM, seed))
    )
    stage = toy(read_stage(Path("fine_tuning")), checkpoint(tmp_path / "base", None))
    with caplog.at_level(logging.WARNING):
        sample = sampler(stage, task, data, tmp_path)
        assert sample is not None
        assert "where the recording has" in sample(1)
        assert "samples are not heard" in caplog.text
        assert sampler(replace(stage, model=replace(stage.model, checkpoint=None)), task, data, tmp_path) is None
    assert "no samples" in caplog.text
