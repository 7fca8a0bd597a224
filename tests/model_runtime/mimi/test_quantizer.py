import torch

from model_runtime.mimi.codec import Mimi
from model_runtime.mimi.quantizer import Codebook


def test_nearest_is_by_euclidean_distance() -> None:
    """Each vector gets the centroid it is nearest to."""
    torch.manual_seed(0)
    codebook = Codebook(40, 6)
    codebook.load_state_dict(
        {"_initialized": torch.ones(1), "cluster_usage": torch.rand(40) + 0.5, "embedding_sum": torch.randn(40, 6)}
    )
    x = torch.randn(200, 6)
    assert torch.equal(codebook.nearest(x), torch.cdist(x, codebook.centroids).argmin(-1))


def test_centroids_come_from_sums_and_counts() -> None:
    """Loading divides the sums by the counts, which are taken as at least 1e-5."""
    codebook = Codebook(2, 1)
    codebook.load_state_dict(
        {
            "_initialized": torch.ones(1),
            "cluster_usage": torch.tensor([4.0, 0.0]),
            "embedding_sum": torch.tensor([[2.0], [1.0]]),
        }
    )
    torch.testing.assert_close(codebook.centroids, torch.tensor([[0.5], [1e5]]))


def test_both_halves_read_the_same_latent(small_mimi: Mimi) -> None:
    """The acoustic codes do not depend on the semantic codebook, and fewer codebooks give a prefix of the codes."""
    quantizer = small_mimi.quantizer
    latent = torch.randn(2, 32, 5, generator=torch.Generator().manual_seed(1))
    codes = quantizer.encode(latent, 8)
    assert torch.equal(quantizer.encode(latent, 4), codes[:, :4])
    semantic = quantizer.rvq_first.codebooks[0]
    semantic.embedding_sum.neg_()
    semantic.refresh()
    assert torch.equal(quantizer.encode(latent, 8)[:, 1:], codes[:, 1:])
    assert not torch.equal(quantizer.encode(latent, 1 + 1)[:, 0], codes[:, 0])
