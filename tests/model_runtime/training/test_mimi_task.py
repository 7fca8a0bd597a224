from pathlib import Path

import pytest
import torch

from model_runtime.checkpoint import load_mimi
from model_runtime.mimi.codec import Mimi
from model_runtime.mimi.quantizer import Codebook, SplitResidualVectorQuantizer
from model_runtime.training.batch import AudioBatch
from model_runtime.training.codebooks import CodebookSettings, QuantizerTraining, learn, start
from model_runtime.training.distributed import Place
from model_runtime.training.export import export_mimi
from model_runtime.training.log import read_rows
from model_runtime.training.mimi_task import MimiTask, MimiTaskSettings, initialise
from model_runtime.training.optimizers import OptimizerSettings
from model_runtime.training.snapshots import snapshots
from model_runtime.training.trainer import Data, Trainer, TrainerSettings
from tests.model_runtime.conftest import SMALL_MIMI
from tests.model_runtime.mimi.test_codec import stream_encode
from tests.model_runtime.training.toys import ToySource, toy_audio

CODEBOOKS = CodebookSettings(warmup=8, unquantized=0.25, decay=0.9)


def trainer(folder: Path, steps: int, settings: MimiTaskSettings, save_every: int = 100) -> Trainer[AudioBatch]:
    """A run of a small codec on tones."""
    random = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    task = MimiTask(initialise(Mimi(SMALL_MIMI), random), settings)
    data = Data(ToySource(toy_audio, cycle=6), lambda: ToySource(toy_audio))
    rates = OptimizerSettings(kind="muon", lr=2e-3, muon_lr=0.02, weight_decay=0.0, schedule="cosine")
    chosen = TrainerSettings(steps, clip=5.0, held_out_every=0, held_out_batches=3, save_every=save_every)
    return Trainer(task, data, chosen, rates, folder, Place(torch.device("cpu")))


def test_reconstruction_improves_and_the_export_streams(tmp_path: Path) -> None:
    """Losses fall, codes stay varied, and the exported codec, loaded by the runtime, streams what it says offline."""
    run = trainer(tmp_path / "run", 50, MimiTaskSettings(phones=3, codebooks=CODEBOOKS))
    before = run.evaluate()
    run.run()
    after = run.evaluate()
    assert after["spectral"] < 0.75 * before["spectral"]
    rows = read_rows(tmp_path / "run" / "train.csv")
    assert float(rows[-1]["distillation"]) < 0.8 * float(rows[0]["distillation"])
    task = run.task.eval()
    assert isinstance(task, MimiTask)
    export_mimi(task.mimi, tmp_path / "codec")
    mimi = load_mimi(tmp_path / "codec")
    audio = toy_audio(9, frames=8).audio
    codes = mimi.encode(audio)
    with torch.no_grad():
        said, coded = task.reconstruct(audio, torch.Generator())
    assert torch.equal(codes, coded.codes)
    torch.testing.assert_close(mimi.decode(codes), said, rtol=0, atol=1e-5)
    assert torch.equal(stream_encode(mimi, audio, SMALL_MIMI.context + 1), codes)
    assert min(len(codes[:, k].unique()) for k in range(8)) > 2


def test_a_decoder_alone_leaves_the_codes(tmp_path: Path) -> None:
    """It sounds better, from codes that are bit for bit what they were; nothing else has moved."""
    run = trainer(tmp_path / "whole", 20, MimiTaskSettings(codebooks=CODEBOOKS))
    run.run()
    assert isinstance(run.task, MimiTask)
    mimi = run.task.mimi
    audio = toy_audio(9, frames=8).audio
    before, weights = mimi.encode(audio), {name: each.clone() for name, each in mimi.state_dict().items()}
    settings = MimiTaskSettings(trained="decoder", phones=3, codebooks=CODEBOOKS)
    data = Data(ToySource(toy_audio, cycle=6), lambda: ToySource(toy_audio))
    chosen = TrainerSettings(25, held_out_every=0, held_out_batches=3)
    rates = OptimizerSettings(lr=2e-3, weight_decay=0.0, schedule="constant")
    place = Place(torch.device("cpu"))
    further = Trainer(MimiTask(mimi, settings, begun=True), data, chosen, rates, tmp_path / "decoder", place)
    first = further.evaluate()
    further.run()
    assert further.evaluate()["spectral"] < 0.95 * first["spectral"]
    assert torch.equal(mimi.encode(audio), before)
    moved = {name.split(".")[0] for name, each in mimi.state_dict().items() if not torch.equal(each, weights[name])}
    assert moved == {"upsample", "decoder_transformer", "decoder"}


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Codebooks, their place in the schedule, discriminators and heads are in the snapshot: the bits are the same."""
    settings = MimiTaskSettings(
        adversarial=1.0, discriminator_width=2, phones=3, codebooks=CodebookSettings(warmup=1, refill_every=2)
    )
    whole = trainer(tmp_path / "whole", 5, settings)
    whole.run()
    trainer(tmp_path / "parts", 5, settings, save_every=3).run(until=4)
    again = trainer(tmp_path / "parts", 5, settings)
    again.resume(snapshots(tmp_path / "parts")[-1])
    again.run()
    expected = whole.task.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.task.state_dict().items())


def test_features_are_distilled(tmp_path: Path) -> None:
    """A self-supervised model's features pull the semantic code: their cosine distance falls."""

    def audio(seed: int) -> AudioBatch:
        batch = toy_audio(seed)
        assert batch.labels is not None
        features = torch.nn.functional.one_hot(batch.labels, 3).float() - 0.3
        return AudioBatch(batch.audio, features=features)

    settings = MimiTaskSettings(features=3, codebooks=CODEBOOKS)
    run = trainer(tmp_path, 30, settings)
    run._data = Data(ToySource(audio, cycle=4), lambda: ToySource(audio, cycle=4))
    before = run.evaluate()["distillation"]
    run.run()
    assert run.evaluate()["distillation"] < 0.8 * before


def quantizer(settings: CodebookSettings) -> QuantizerTraining:
    """A small quantizer in training."""
    torch.manual_seed(2)
    return QuantizerTraining(SplitResidualVectorQuantizer(8, 4, 16, 4), settings, 4).train()


def test_gradients_pass_straight_through() -> None:
    """Where recordings are quantized the latent's gradient is that of the two projections alone."""
    coding = quantizer(CodebookSettings(unquantized=0.0, dropout=False))
    latent = torch.randn(2, 8, 5, requires_grad=True)
    coding(latent, torch.Generator().manual_seed(1)).latent.sum().backward()
    expected = torch.zeros(8)
    for chain in (coding.quantizer.rvq_first, coding.quantizer.rvq_rest):
        expected += (chain.output_proj.weight[..., 0] @ chain.input_proj.weight[..., 0]).sum(0).detach()
    assert latent.grad is not None
    torch.testing.assert_close(latent.grad, expected[None, :, None].expand(2, 8, 5))


def test_in_training_as_served() -> None:
    """Without dropout what comes out is what the runtime's quantizer codes and decodes."""
    coding = quantizer(CodebookSettings())
    random = torch.Generator().manual_seed(1)
    coding(torch.randn(4, 8, 20, generator=random), random)
    latent = torch.randn(2, 8, 5, generator=random)
    coded = coding.eval()(latent, random)
    assert torch.equal(coded.codes, coding.quantizer.encode(latent, 4))
    torch.testing.assert_close(coded.latent, coding.quantizer.decode(coded.codes))


def test_dropout_leaves_codebooks_out() -> None:
    """A recording that uses k codebooks is what the runtime decodes of its first k codes."""
    coding = quantizer(CodebookSettings(unquantized=0.0, decay=1.0, dead=0.0))
    random = torch.Generator().manual_seed(1)
    latent = torch.randn(16, 8, 5, generator=random)
    coding(latent, random)
    coded = coding(latent, random)
    decoded = torch.stack([coding.quantizer.decode(coded.codes[:, :k]) for k in (2, 3, 4)])
    distances = (decoded - coded.latent).abs().amax((2, 3))  # [3, B]
    assert (distances.min(0).values < 1e-5).all()
    assert len(distances.argmin(0).unique()) == 3


def test_a_codebook_follows_by_hand() -> None:
    """One step of the moving average: usage 0.9 * 2 + 0.1 * 3, sums alike, and their quotient is the centroid."""
    codebook = Codebook(2, 1)
    codebook.cluster_usage.fill_(2.0)
    codebook.embedding_sum.copy_(torch.tensor([[2.0], [20.0]]))
    codebook.refresh()
    x = torch.tensor([[2.0], [3.0], [4.0]])
    learn(codebook, x, torch.tensor([0, 0, 0]), CodebookSettings(decay=0.9), None)
    assert codebook.cluster_usage.tolist() == pytest.approx([2.1, 1.8])
    assert codebook.centroids.flatten().tolist() == pytest.approx([(1.8 + 0.9) / 2.1, 10.0])


def test_dead_centroids_come_back() -> None:
    """One that codes next to nothing is put among what is coded; the others stay."""
    codebook = Codebook(4, 1)
    codebook.cluster_usage.copy_(torch.tensor([8.0, 8.0, 8.0, 0.01]))
    codebook.embedding_sum.copy_(codebook.cluster_usage[:, None] * torch.tensor([[1.0], [2.0], [3.0], [900.0]]))
    codebook.refresh()
    x = torch.tensor([[1.0], [2.0], [3.0]]).repeat(8, 1)
    settings = CodebookSettings(decay=0.5)
    learn(codebook, x, codebook.nearest(x), settings, torch.Generator().manual_seed(1))
    assert float(codebook.centroids[3]) in (1.0, 2.0, 3.0)
    torch.testing.assert_close(codebook.centroids[:3], torch.tensor([[1.0], [2.0], [3.0]]))


def test_kmeans_finds_clusters() -> None:
    """Centroids begin where the data lies."""
    random = torch.Generator().manual_seed(1)
    x = torch.tensor([[-5.0], [0.0], [5.0]]).repeat_interleave(50, 0) + 0.1 * torch.randn(150, 1, generator=random)
    codebook = Codebook(6, 1)
    start(codebook, x, 10, random)
    assert float((x - codebook.centroids[codebook.nearest(x)]).abs().max()) < 0.5
