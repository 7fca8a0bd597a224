"""Sound to codes on disk, and batches from there."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model_runtime.mimi.codec import Mimi
from model_runtime.training.batches import Batches, BatchSettings, MixedBatches, RecordedCrops
from model_runtime.training.encode import EncodedDataset, EncodeSettings, encode, encode_dataset, fingerprint
from model_runtime.training.recordings import DataError, Recording, write_index, write_wav
from tests.model_runtime.training.test_interleave import SPELLING


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three recordings of noise, of 20, 30 and 40 frames."""
    folder = tmp_path / "data"
    folder.mkdir()
    recordings = []
    for i, frames in enumerate((20, 30, 40)):
        audio = 0.1 * np.random.default_rng(i).standard_normal((2, frames * 1920)).astype(np.float32)
        path = folder / f"{i}.wav"
        write_wav(path, audio)
        words = [["ab", [0.16, 0.3], "SPEAKER_MAIN"], ["c", [1.2, 1.3], "SPEAKER_MAIN"]]
        path.with_suffix(".json").write_text(json.dumps({"alignments": words}))
        recordings.append(Recording(path, frames * 0.08))
    write_index(folder, recordings)
    return folder


def test_chunks_and_batches_change_no_code(small_mimi: Mimi) -> None:
    """Rows of any lengths, streamed in chunks, have the codes that each has alone and at once, past the window."""
    random = np.random.default_rng(0)
    rows = [0.1 * random.standard_normal(frames * 1920).astype(np.float32) for frames in (120, 7, 53)]
    for row, codes in zip(rows, encode(small_mimi, rows), strict=True):
        whole = small_mimi.encode(torch.from_numpy(row)[None, None])[0]
        assert codes.dtype == torch.int16
        assert torch.equal(codes.long(), whole)


def test_a_data_set_is_encoded_once(dataset: Path, tmp_path: Path, small_mimi: Mimi) -> None:
    """Codes of both channels and the words; what is there is kept, and made anew when a file or the codec changes."""
    out = tmp_path / "codes"
    encoded = encode_dataset(dataset, small_mimi, out)
    assert encoded.frames == [20, 30, 40]
    audio = torch.from_numpy(Recording(dataset / "1.wav", 2.4).audio())
    assert torch.equal(encoded[1].codes.long(), small_mimi.encode(audio[:, None]).flatten(0, 1))
    assert encoded[1].words[0].text == "ab"
    shard = out / "codes-00000.safetensors"
    before = shard.stat().st_mtime_ns
    encode_dataset(dataset, small_mimi, out)
    assert shard.stat().st_mtime_ns == before
    write_wav(dataset / "1.wav", 0.5 * audio.numpy())
    assert not torch.equal(encode_dataset(dataset, small_mimi, out)[1].codes, encoded[1].codes)
    assert shard.stat().st_mtime_ns != before
    assert encoded.codec == fingerprint(small_mimi)


def test_versions_augment_the_caller_alone(dataset: Path, tmp_path: Path, small_mimi: Mimi) -> None:
    """The second version has other codes of the caller, the same ones each time, and the same of the agent."""
    one = encode_dataset(dataset, small_mimi, tmp_path / "one", EncodeSettings(versions=2, seed=4))
    two = encode_dataset(dataset, small_mimi, tmp_path / "two", EncodeSettings(versions=2, seed=4))
    assert len(one) == 6
    for i in range(3):
        assert torch.equal(one[i].codes[:8], one[i + 3].codes[:8])
        assert torch.equal(one[i + 3].codes, two[i + 3].codes)
    assert any(not torch.equal(one[i].codes[8:], one[i + 3].codes[8:]) for i in range(3))


def source(dataset: EncodedDataset, **settings: int) -> Batches:
    """Crops of 25 frames, two at a time."""
    shape = BatchSettings(2, 25, **settings)
    return Batches(RecordedCrops(dataset, SPELLING, shape), shape)


def test_crops_are_filled_up_and_masked(dataset: Path, tmp_path: Path, small_mimi: Mimi) -> None:
    """A short recording is filled with what counts for nothing; a crop from within has no first frame."""
    encoded = encode_dataset(dataset, small_mimi, tmp_path / "codes")
    batches = iter(source(encoded))
    rows = torch.cat([next(batches).tokens for _ in range(20)])
    assert rows.shape == (40, 17, 25)
    short = (rows[:, :, 20:] == -1).flatten(1).all(1)
    assert short.any()
    assert not short.all()
    assert (rows[short][:, 0, 2:4] == torch.tensor([10, 11])).all()
    within = (rows[:, :, 0] == -1).all(1)
    assert within.any()
    assert (rows[:, :, 1:20] >= 0).all()


def test_a_resumed_source_goes_on_as_if_it_had_not_stopped(dataset: Path, tmp_path: Path, small_mimi: Mimi) -> None:
    """The state is enough, also of a mixture; processes have different examples."""
    encoded = encode_dataset(dataset, small_mimi, tmp_path / "codes")

    def mixed() -> MixedBatches:
        return MixedBatches([(0.7, source(encoded, seed=1)), (0.3, source(encoded, seed=2))], seed=3)

    first, other = mixed(), mixed()
    batches = iter(first)
    for _ in range(5):
        next(batches)
    other.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for _ in range(5):
        assert torch.equal(next(batches).tokens, next(iter(other)).tokens)
    ranks = [next(iter(source(encoded, rank=rank, processes=2))).tokens for rank in range(2)]
    assert not torch.equal(*ranks)


def test_what_is_not_encoded_is_named(tmp_path: Path) -> None:
    """A folder without codes is refused, with the command that makes them."""
    with pytest.raises(DataError, match="denwa train encode"):
        EncodedDataset(tmp_path)
