from dataclasses import replace
from itertools import pairwise

import torch

from model_runtime.lm.language_model import LanguageModel
from model_runtime.training.tasks import Corruption, LanguageModelTask, LanguageModelTaskSettings
from tests.model_runtime.conftest import SMALL_LM
from tests.model_runtime.training.toys import toy_batch

PLAIN = LanguageModelTaskSettings()


def losses(corruption: Corruption, *, training: bool, seed: int = 1) -> dict[str, float]:
    """Of a new model on a toy batch."""
    torch.manual_seed(1)
    task = LanguageModelTask(LanguageModel(SMALL_LM), replace(PLAIN, corruption=corruption)).train(training)
    batch = toy_batch(SMALL_LM, 1)
    values = task(batch, task.weigh(batch), torch.Generator().manual_seed(seed))
    return {name: float(value.detach()) for name, value in values.items()}


def test_what_is_given_is_corrupted_and_what_is_wanted_is_not() -> None:
    """In training alone, and the same for the same generator."""
    corruption = Corruption(text=0.5, own=0.5, user=0.5)
    true = losses(Corruption(), training=True)
    assert losses(corruption, training=False) == true
    wrong = losses(corruption, training=True)
    assert wrong == losses(corruption, training=True)
    assert wrong != losses(corruption, training=True, seed=2)
    assert wrong["text"] != true["text"]


def test_each_speaker_is_corrupted_by_its_own_share() -> None:
    """The tokens that differ are those of the share's streams, about as many as it says; empty ones stay empty."""
    lm = LanguageModel(SMALL_LM)
    given = torch.randint(10, (8, 17, 200), generator=torch.Generator().manual_seed(1))
    given[..., :50] = -1
    streams = {"text": slice(0, 1), "own": slice(1, 9), "user": slice(9, 17)}
    for name, rows in streams.items():
        task = LanguageModelTask(lm, replace(PLAIN, corruption=Corruption(**{name: 0.2})))
        changed = task._corrupted(given, torch.Generator().manual_seed(1)) != given
        assert not changed[..., :50].any()
        share = changed[:, rows, 50:].float().mean()
        assert 0.15 < share < 0.22
        assert int(changed.sum()) == int(changed[:, rows].sum())
    assert all(a.stop == b.start for a, b in pairwise(streams.values()))
