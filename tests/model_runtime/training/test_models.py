from dataclasses import replace
from pathlib import Path

import torch

from model_runtime.mimi.codec import Mimi
from model_runtime.training.export import export_mimi, language_model_keys
from model_runtime.training.models import make_task, new_language_model
from model_runtime.training.stages import ModelSettings, read_stage
from model_runtime.training.tasks import LanguageModelTask
from tests.model_runtime.conftest import SMALL_LM


def test_a_new_model_has_lively_signals() -> None:
    """Its hidden values and logits have variances near 1, and the same seed gives the same weights."""
    lm, again = (new_language_model(SMALL_LM, torch.Generator().manual_seed(1)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(lm.parameters(), again.parameters(), strict=True))
    with torch.no_grad():
        hidden, logits = lm(torch.randint(50, (2, 17, 10)))
    assert 0.5 < float(hidden.std()) < 2
    assert 0.3 < float(logits.std()) < 3


def test_the_callers_codes_begin_as_the_codecs_centroids(tmp_path: Path, small_mimi: Mimi) -> None:
    """Codes whose centroids are near have embeddings that are near; the agent's own are left alone."""
    stage = read_stage(Path("fine_tuning"))
    plain = ModelSettings(shape=language_model_keys(SMALL_LM))
    codec = export_mimi(small_mimi, tmp_path)
    tasks = [
        make_task(replace(stage, model=model)) for model in (plain, replace(plain, user_embeddings_from=str(codec)))
    ]
    before, after = (task.lm for task in tasks if isinstance(task, LanguageModelTask))
    assert torch.equal(before.emb[7].weight, after.emb[7].weight)
    for k, book in enumerate([*small_mimi.quantizer.rvq_first.codebooks, *small_mimi.quantizer.rvq_rest.codebooks]):
        chain = small_mimi.quantizer.rvq_rest if k else small_mimi.quantizer.rvq_first
        latents = book.centroids @ chain.output_proj.weight[..., 0].T
        rows = after.emb[8 + k].weight[: len(latents)]
        distances = torch.stack([torch.pdist(latents), torch.pdist(rows.detach())])
        assert float(torch.corrcoef(distances)[0, 1]) > 0.7
        assert torch.equal(after.emb[8 + k].weight[-1], before.emb[8 + k].weight[-1])
