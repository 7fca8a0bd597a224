"""Synthetic data sets and stores, spoken by espeak-ng."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from config.audio import FRAME_SAMPLES
from model_runtime.mimi.codec import Mimi
from model_runtime.text import PAD
from model_runtime.training.augment import Augmentation
from model_runtime.training.batches import BatchSettings, ComposedDialogues, HeardBatch, Utterances
from model_runtime.training.recordings import DataError, read_index
from model_runtime.training.synthetic.composing import compose, draw_dialogue
from model_runtime.training.synthetic.dataset import make_dialogue, synthesize
from model_runtime.training.synthetic.rendering import CALLER, render
from model_runtime.training.synthetic.script import Shares
from model_runtime.training.synthetic.speech import agent_speech
from model_runtime.training.synthetic.speech_batches import SpeechBatches, speak_sentences
from model_runtime.training.synthetic.store import Store, build_store
from tests.model_runtime.training.synthetic.worlds import SMALL, small_world
from tests.model_runtime.training.test_interleave import SPELLING

pytestmark = pytest.mark.peer("espeak-ng")
CLEAR = Augmentation(gain=0, noise=0, echo=0, reverb=0, telephone=0)


def test_a_data_set_is_the_same_for_a_seed_and_any_processes(tmp_path: Path) -> None:
    """One process or two write the same sound and the same words, as many hours as asked."""
    world = tmp_path / "small.yaml"
    world.write_text(SMALL)
    one = synthesize(world, tmp_path / "one", hours=0.01, seed=3)
    two = synthesize(world, tmp_path / "two", hours=0.01, seed=3, processes=2)
    assert sum(each.duration for each in one) >= 36
    assert [each.path.name for each in one] == [each.path.name for each in two]
    for a, b in zip(one, two, strict=True):
        assert a.path.read_bytes() == b.path.read_bytes()
        assert a.about() == b.about()
    assert sorted(each.name for each in (tmp_path / "two").glob("*.wav")) == [each.path.name for each in two]
    first = read_index(tmp_path / "one")[0]
    assert first.words()[0].text == "Hello"
    assert all(turn["text"] for turn in first.about()["turns"])
    assert first.words(CALLER, "caller")
    assert json.loads(first.path.with_suffix(".json").read_text())["alignments"][0][2] == "SPEAKER_MAIN"


def test_the_agent_is_silent_after_its_cut(tmp_path: Path) -> None:
    """In the sound too: energy until the cut, none from it to the next reply; the caller is heard from the onset on."""
    shares = Shares(barge_in=1, backchannel=0, burst=0, hesitation=0, silent=0)
    world = replace(small_world(tmp_path), shares=shares, channel=CLEAR)
    agent = agent_speech(world)
    for index in range(8):
        dialogue, audio = make_dialogue(world, agent, 0, index, "train", "seen")
        for said, after, reply in zip(dialogue.said, dialogue.said[1:], dialogue.said[2:], strict=False):
            if said.cut is None:
                continue
            cut, onset = round(said.cut * 24_000), round((after.start + after.clip.words[0].start) * 24_000)
            assert np.abs(audio[0, cut - 4000 : cut - 500]).max() > 0.01
            assert not audio[0, cut : round(reply.start * 24_000)].any()
            assert np.abs(audio[1, onset : onset + 4000]).max() > 0.01
            return
    pytest.fail("nobody was interrupted")


def test_the_echo_is_in_the_callers_channel(tmp_path: Path) -> None:
    """With an echo the caller's channel has the agent's greeting in it, without not."""
    world = replace(
        small_world(tmp_path), channel=replace(CLEAR, echo=1, echo_delay_s=(0.1, 0.1), echo_gain=(0.2, 0.2))
    )
    dialogue, _ = make_dialogue(world, agent_speech(world), 0, 0, "train", "seen")
    agent, heard = render(dialogue, world, np.random.default_rng(0))
    greeting = slice(12_000, round(dialogue.said[0].end * 24_000))
    np.testing.assert_allclose(heard[2400:][greeting], 0.2 * agent[greeting], atol=1e-4)
    _, clear = render(dialogue, replace(world, channel=CLEAR), np.random.default_rng(0))
    assert not clear[greeting].any()


@pytest.fixture
def store(tmp_path: Path, small_mimi: Mimi) -> Store:
    """Two callers of the small world, in a small codec's codes."""
    build_store(small_world(tmp_path), small_mimi, tmp_path / "store", callers=2, seed=1)
    return Store(tmp_path / "store")


def test_composed_codes_are_those_of_the_whole_sound(tmp_path: Path, store: Store, small_mimi: Mimi) -> None:
    """The agent's channel, composed, has nearly the codes of its sound encoded as a whole, cuts and all."""
    world = small_world(tmp_path)
    agent = agent_speech(world)
    same = total = cuts = 0
    for seed in range(6):
        random = np.random.default_rng(seed)
        dialogue, caller = draw_dialogue(store, world, random, late=False)
        codes = compose(dialogue, store, caller, random)
        assert codes.shape == (16, dialogue.frames)
        sound = np.zeros(dialogue.frames * FRAME_SAMPLES, np.float32)
        for said in dialogue.said:
            if said.speaker == "agent":
                cuts += said.cut is not None
                audio = agent[said.clip.text].audio
                audio = audio[: None if said.cut is None else round((said.cut - said.start) * 24_000)]
                sound[said.frame * FRAME_SAMPLES :][: len(audio)] = audio[: len(sound) - said.frame * FRAME_SAMPLES]
        whole = small_mimi.encode(torch.from_numpy(sound)[None, None])[0]
        same += int((whole == codes[:8]).sum())
        total += whole.numel()
    assert cuts
    assert same / total > 0.85  # the small codec sees 5 frames back: what is left are phases of its silence


def test_a_composed_batch_tells_what_is_said_and_heard(tmp_path: Path, store: Store) -> None:
    """Text and codes have one shape, absent frames count for nothing, beginnings count more, callers are labelled."""
    world = small_world(tmp_path)
    examples = ComposedDialogues(store, world, SPELLING, BatchSettings(2, 100), emphasis=3.0)
    made = [examples.make(np.random.default_rng(i)) for i in range(12)]
    batch = examples.join(made)
    assert isinstance(batch, HeardBatch)
    assert batch.tokens.shape == batch.loss_mask.shape == (12, 17, 100)
    assert not batch.loss_mask[batch.tokens == -1].any()
    assert set(batch.loss_mask.unique().tolist()) == {0.0, 1.0, 3.0}
    begun_late = (batch.tokens[:, :, 0] == -1).all(1)
    assert 0 < int(begun_late.sum()) < 12
    assert set(batch.meant.unique().tolist()) <= {-1, 0, 1, 2, 3}
    assert int((batch.heard >= 0).sum()) > 12


def test_an_utterance_alone_is_for_listening(tmp_path: Path, store: Store) -> None:
    """It has the caller's codes over the agent's silence, a label for each word, and nothing that counts."""
    examples = Utterances(store, small_world(tmp_path), BatchSettings(1, 60))
    batch = examples.make(np.random.default_rng(0))
    assert (batch.tokens[:, 0] == PAD).all()
    assert torch.equal(batch.tokens[0, 1:9], store.silence[:, :60].long())
    assert (batch.tokens[:, 9:] >= 0).all()
    assert not batch.loss_mask.any()
    assert (batch.heard >= 0).any()


def test_speech_for_the_codec_has_labels(tmp_path: Path) -> None:
    """Audio and a phone for each frame, the same after a resume."""
    sentences = speak_sentences(small_world(tmp_path), agent=1, read=2, callers=4, seed=0)
    source = SpeechBatches(sentences, size=3, frames=16, seed=0)
    batches = iter(source)
    next(batches)
    state = source.state_dict()
    batch = next(batches)
    assert batch.audio.shape == (3, 1, 16 * FRAME_SAMPLES)
    assert batch.labels is not None
    assert batch.labels.shape == (3, 16)
    assert len(batch.labels.unique()) > 5
    other = SpeechBatches(sentences, size=3, frames=16, seed=0)
    other.load_state_dict(state)
    assert torch.equal(next(iter(other)).audio, batch.audio)


def test_an_empty_store_is_named(tmp_path: Path) -> None:
    """What is no store is refused with its name."""
    with pytest.raises(DataError, match="nothing-here"):
        Store(tmp_path / "nothing-here")
