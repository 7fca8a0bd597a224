"""The multi-scale STFT discriminators of EnCodec (arXiv 2210.13438, section 3.4): training only, never exported."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StftDiscriminator(nn.Module):
    """Convolutions over one complex spectrogram."""

    def __init__(self, n_fft: int, width: int) -> None:
        super().__init__()
        self._n_fft = n_fft

        def conv(into: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), dilation: int = 1) -> nn.Module:
            padding = ((kernel[0] - 1) // 2 * dilation, (kernel[1] - 1) // 2)
            layer = nn.Conv2d(into, width, kernel, stride, padding, dilation=(dilation, 1))
            normed: nn.Module = nn.utils.parametrizations.weight_norm(layer)
            return normed

        self.layers = nn.ModuleList(
            [
                conv(2, (3, 9)),
                *(conv(width, (3, 9), (1, 2), dilation) for dilation in (1, 2, 4)),
                conv(width, (3, 3)),
            ]
        )
        self.score = nn.utils.parametrizations.weight_norm(nn.Conv2d(width, 1, (3, 3), padding=1))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores and the features of every layer for ``audio [B, 1, T]``."""
        window = torch.hann_window(self._n_fft, device=audio.device)
        n_fft = self._n_fft
        bins = torch.stft(audio[:, 0].float(), n_fft, n_fft // 4, window=window, return_complex=True, normalized=True)
        x = torch.view_as_real(bins).permute(0, 3, 2, 1)  # [B, 2, T, F]
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.score(x), features


class Discriminators(nn.Module):
    """One discriminator per window."""

    def __init__(self, windows: Sequence[int] = (2048, 1024, 512, 256, 128), width: int = 32) -> None:
        super().__init__()
        self.each = nn.ModuleList(StftDiscriminator(n_fft, width) for n_fft in windows)

    def forward(self, audio: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Scores and features by discriminator, for ``audio [B, 1, T]``."""
        scores, features = zip(*(discriminator(audio) for discriminator in self.each), strict=True)
        return list(scores), list(features)
