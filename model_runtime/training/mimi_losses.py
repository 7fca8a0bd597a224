"""The codec's losses: how far the audio is from the original, and what its semantic code should tell.

Spectral and adversarial terms are those of EnCodec (arXiv 2210.13438, section 3.4), distillation that of the Moshi
paper (arXiv 2410.00037, section 3.3.3). Runs in the training process; owns nothing.
"""

from collections.abc import Sequence
from functools import cache
from math import log
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

_FLOOR: Final = 1e-3
"""Of magnitudes whose logarithms are compared; speech has 0.1 to 1. Lower, and losses tell of silence alone."""


@cache
def mel_filters(n_fft: int, mels: int, sample_rate: int = 24_000) -> Tensor:
    """Triangular filters ``[mels, n_fft / 2 + 1]``, evenly spaced in mel (O'Shaughnessy 1987); cached on the CPU."""
    top = 2595 * log(1 + sample_rate / 2 / 700, 10)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2) / 2595) - 1)  # [mels + 2] Hz
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


def mel_spectrogram(audio: Tensor, n_fft: int, mels: int) -> Tensor:
    """Magnitudes ``[B, mels, T]`` float32 of ``audio [B, T]``, hops of a quarter of a Hann window."""
    window = torch.hann_window(n_fft, device=audio.device)
    bins = torch.stft(audio.float(), n_fft, n_fft // 4, window=window, return_complex=True, normalized=True)
    power = bins.real.square() + bins.imag.square()
    return mel_filters(n_fft, mels).to(audio.device) @ (power + 1e-12).sqrt()


def spectral_loss(said: Tensor, original: Tensor, windows: Sequence[int] = (128, 256, 512, 1024, 2048)) -> Tensor:
    """Mean over ``windows`` of L1 between mels and L2 between their logarithms, of audio ``[B, 1, T]``."""
    assert said.shape == original.shape, (said.shape, original.shape)
    total = said.new_zeros((), dtype=torch.float32)
    for n_fft in windows:
        mels = min(64, n_fft // 8)
        ours, theirs = (mel_spectrogram(audio[:, 0], n_fft, mels) for audio in (said, original))
        logs = (ours.clamp(min=_FLOOR).log() - theirs.clamp(min=_FLOOR).log()).square().mean(1)
        total = total + F.l1_loss(ours, theirs) + (logs + 1e-8).sqrt().mean()
    return total / len(windows)


def waveform_loss(said: Tensor, original: Tensor, n_fft: int = 512, power: float = 0.5) -> Tensor:
    """L1 between short-time spectra with magnitudes to the ``power``: it hears phase, which magnitudes do not.

    reference/tiny.md, part B: what makes a small decoder learn quickly where its target's phase can be known.
    """
    window = torch.hann_window(n_fft, device=said.device)

    def compressed(audio: Tensor) -> Tensor:
        bins = torch.stft(audio[:, 0].float(), n_fft, n_fft // 4, window=window, return_complex=True, normalized=True)
        parts = torch.view_as_real(bins)
        magnitude = (parts.square().sum(-1, keepdim=True) + 1e-8).sqrt()
        return parts * magnitude ** (power - 1)

    return F.l1_loss(compressed(said), compressed(original))


def commitment_loss(latent: Tensor, quantized: Tensor) -> Tensor:
    """Mean squared distance of ``latent`` to the centroids it was given, which do not move for it."""
    return F.mse_loss(latent.float(), quantized.detach().float())


def cosine_distillation(predicted: Tensor, features: Tensor) -> Tensor:
    """One minus the mean cosine between ``predicted [B, T, D]`` and a self-supervised model's ``features``."""
    return 1 - F.cosine_similarity(predicted.float(), features.float(), dim=-1).mean()


def phone_distillation(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of ``logits [B, T, P]`` for ``labels [B, T]``; negative labels are unknown. 0 where all are."""
    known = labels >= 0
    each = F.cross_entropy(logits.flatten(0, 1).float(), labels.clamp(min=0).flatten(), reduction="none")
    return (each * known.flatten()).sum() / known.sum().clamp(min=1)


def hinge_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """What the discriminators lose: real scores should be above 1, fake ones below -1."""
    losses = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def hinge_generator(fake: Sequence[Tensor]) -> Tensor:
    """What the codec loses where its audio is told from real."""
    return torch.stack([F.relu(1 - score).mean() for score in fake]).mean()


def feature_matching(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean over discriminators and their layers of the relative L1 distance of features; real ones stand still."""
    distances = [
        (r.detach() - f).abs().mean() / r.detach().abs().mean().clamp(min=1e-6)
        for reals, fakes in zip(real, fake, strict=True)
        for r, f in zip(reals, fakes, strict=True)
    ]
    return torch.stack(distances).mean()
