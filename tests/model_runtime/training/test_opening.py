"""From files of a data set to a trained model, as a user has them."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model_runtime.checkpoint import load_language_model, load_mimi
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.text import TextTokenizer
from model_runtime.tiny import TOKENIZER
from model_runtime.training.batch import AudioBatch, Batch
from model_runtime.training.distributed import Place
from model_runtime.training.encode import encode_dataset
from model_runtime.training.export import export_language_model, export_tokenizer
from model_runtime.training.log import read_rows
from model_runtime.training.opening import open_data
from model_runtime.training.recordings import DataError, Recording, write_index, write_wav
from model_runtime.training.sources import AudioCrops, TextCrops, read_text
from model_runtime.training.stages import Stage, StageError, read_stage
from model_runtime.training.train_command import train
from tests.model_runtime.training.test_stages import TOY_LM, toy
from tests.model_runtime.training.toys import toy_audio

HERE = Place(torch.device("cpu"))


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Three stereo recordings of 2.4 s with their words, in moshi-finetune's format."""
    folder, recordings = tmp_path / "calls", []
    folder.mkdir()
    for number in range(3):
        sides = [toy_audio(10 * number + side, size=1, frames=30).audio[0, 0].numpy() for side in range(2)]
        path = folder / f"call{number}.wav"
        write_wav(path, np.stack(sides))
        words = [["how", [0.4, 0.6], "SPEAKER_MAIN"], ["can", [0.7, 0.9], "SPEAKER_MAIN"]]
        path.with_suffix(".json").write_text(json.dumps({"alignments": words}))
        recordings.append(Recording(path, 2.4))
    write_index(folder, recordings)
    return folder


def of(stage: Stage, **data: Any) -> Stage:
    """The stage with other data."""
    return replace(stage, data={"tokenizer": str(TOKENIZER), **data})


def test_adapters_are_trained_on_recorded_calls(tmp_path: Path, calls: Path, small_mimi: Mimi) -> None:
    """Recorded calls are encoded and trained on; the held-out loss falls, and the adapters load."""
    torch.manual_seed(1)
    base = export_tokenizer(TOKENIZER, export_language_model(LanguageModel(TOY_LM), tmp_path / "base"))
    encode_dataset(calls, small_mimi, tmp_path / "codes")
    section = {"kind": "recordings", "path": str(tmp_path / "codes"), "seconds": 1.6, "batch": 2}
    stage = replace(toy(read_stage(Path("lora")), base), data={"train": section, "held_out": section})
    faster = replace(stage.optimizer, lr=0.01)
    stage = replace(stage, optimizer=faster, trainer=replace(stage.trainer, steps=10, held_out_every=5))
    adapted = train(stage, tmp_path / "run")
    held_out = [float(row["loss"]) for row in read_rows(tmp_path / "run" / "held_out.csv")]
    assert held_out[-1] < held_out[0]
    assert isinstance(load_language_model(adapted, "cpu", torch.float32), LanguageModel)


def test_a_codec_is_trained_on_recorded_calls(tmp_path: Path, calls: Path) -> None:
    """Sound of a data set, and features of a self-supervised model where they are given, train a codec."""
    features = tmp_path / "features"
    features.mkdir()
    for number in range(3):
        save_file({"features": torch.randn(2, 30, 3)}, features / f"call{number}.safetensors")
    section = {"kind": "audio", "path": str(calls), "seconds": 0.32, "batch": 2, "features": str(features)}
    codec = train(of(toy(read_stage(Path("mimi")), None), train=section, held_out=section), tmp_path / "run")
    assert load_mimi(codec).codebooks == 8


@pytest.mark.skipif(which("espeak-ng") is None, reason="apt-get install espeak-ng")
def test_the_small_codec_is_trained_on_synthetic_speech(tmp_path: Path) -> None:
    """Its stage, with fewer sentences, speaks them, labels their phones, and trains on both."""
    stage = toy(read_stage(Path("mimi_small")), None)
    stage = replace(stage, mimi=replace(stage.mimi, phones=64))
    section = {"kind": "speech", "agent": 0, "read": 2, "callers": 6, "seconds": 0.32, "batch": 2}
    codec = train(of(stage, train=section, held_out=section), tmp_path)
    assert load_mimi(codec).codebooks == 8
    with pytest.raises(StageError, match=r"mimi\.phones: \d+ kinds of phones"):
        open_data(of(replace(stage, mimi=replace(stage.mimi, phones=2)), train=section), HERE)


def test_audio_crops(calls: Path) -> None:
    """A source that is put back makes the same batches, and processes have different ones."""
    recordings = [Recording(calls / f"call{number}.wav", 2.4) for number in range(3)]

    def crops(rank: int) -> AudioCrops:
        return AudioCrops(recordings, size=2, frames=4, seed=1, share=(rank, 2))

    first, second = islice(crops(0), 2)
    assert first.audio.shape == (2, 1, 4 * 1920)
    again = crops(0)
    again.load_state_dict({"next": 1})
    assert torch.equal(next(iter(again)).audio, second.audio)
    assert not torch.equal(next(iter(crops(1))).audio, first.audio)
    with pytest.raises(DataError, match="none of the 3 recordings has 31 frames"):
        AudioCrops(recordings, size=2, frames=31, seed=1)


def test_text(tmp_path: Path) -> None:
    """Documents begin with BOS, and crops have nothing but text."""
    (tmp_path / "a.txt").write_text("how can I help you " * 30)
    (tmp_path / "b.jsonl").write_text('{"text": "good bye"}\n{"text": "yes please"}\n')
    tokens = read_text(tmp_path, TextTokenizer(TOKENIZER))
    assert int((tokens == 1).sum()) == 3
    np.save(tmp_path / "tokens.npy", tokens)
    assert np.array_equal(read_text(tmp_path / "tokens.npy", TextTokenizer(TOKENIZER)), tokens)
    batch = TextCrops(tokens, 17, 10).make(np.random.default_rng(1))
    assert batch.tokens[:, 1:].eq(-1).all()
    assert batch.loss_mask.sum() == 10
    with pytest.raises(DataError, match="a crop needs 999"):
        TextCrops(tokens, 17, 999)
    with pytest.raises(DataError, match="no text can be read"):
        read_text(tmp_path / "nothing.txt", TextTokenizer(TOKENIZER))


def test_mixtures_and_held_out_text(tmp_path: Path) -> None:
    """A mix draws from its parts, and what is held out is the same each time and not what is trained on."""
    (tmp_path / "a.txt").write_text("how can I help you " * 30)
    section = {"kind": "text", "path": str(tmp_path), "tokens": 12, "batch": 2}
    mix = {"mix": [{"share": 3, **section}, {"share": 1, **section, "batch": 3}]}
    data = open_data(of(read_stage(Path("helium")), train=mix, held_out=section), HERE)
    sizes = [len(batch) for batch in islice(data.train, 40)]
    assert 20 < sizes.count(2) < 40
    assert data.held_out is not None
    one, other = (next(iter(data.held_out())) for _ in range(2))
    assert isinstance(one, Batch)
    assert not isinstance(one, AudioBatch)
    assert torch.equal(one.tokens, other.tokens)
    assert not any(torch.equal(one.tokens, batch.tokens) for batch in islice(data.train, 5) if len(batch) == 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "train and perhaps held_out"),
        ({"train": {"kind": "songs"}}, r"data\.train\.kind: one of text, recordings"),
        ({"train": {"kind": "text", "path": "x", "batch": 1}}, r"data\.train\.tokens is missing"),
        ({"train": [1]}, "a mapping is needed"),
    ],
)
def test_faults_of_the_data_section(data: dict[str, Any], message: str) -> None:
    """What is wrong is said by its place in the stage's file."""
    with pytest.raises(StageError, match=message):
        open_data(of(read_stage(Path("helium")), **data), HERE)
