"""Training the codec: audio through encoder, quantizer and decoder, and everything that is lost on the way.

Runs in the training process. What is trained are the modules that are served; heads and discriminators stay behind.
"""

from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from model_runtime.mimi.codec import Mimi
from model_runtime.training.batch import AudioBatch
from model_runtime.training.codebooks import CodebookSettings, Quantized, QuantizerTraining
from model_runtime.training.discriminators import Discriminators
from model_runtime.training.mimi_losses import (
    cosine_distillation,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    phone_distillation,
    spectral_loss,
    waveform_loss,
)
from model_runtime.training.tasks import Task


@dataclass(frozen=True)
class MimiTaskSettings:
    """How much each loss counts, and what the semantic code is distilled from."""

    spectral: float = 1.0
    waveform: float = 0.0
    absolute: float = 0.1
    """L1 between samples."""
    commitment: float = 0.25
    distillation: float = 1.0
    adversarial: float = 0.0
    """Above 0 there are discriminators; then ``feature_matching`` counts as well."""
    feature_matching: float = 4.0
    discriminator_width: int = 32
    phones: int = 0
    """Kinds of phone labels in the batches; 0: none."""
    features: int = 0
    """Width of a self-supervised model's features in the batches; 0: none."""
    codebooks: CodebookSettings = field(default_factory=CodebookSettings)
    trained: Literal["all", "decoder"] = "all"
    """``decoder`` leaves codes what they are: what was encoded stays good, and only sounds better."""


class MimiTask(Task[AudioBatch]):
    """The codec as an autoencoder."""

    def __init__(self, mimi: Mimi, settings: MimiTaskSettings, *, begun: bool = False) -> None:
        """Train ``mimi``; ``begun`` says that its codebooks are trained already."""
        super().__init__()
        self.mimi = mimi
        self.coding = QuantizerTraining(mimi.quantizer, settings.codebooks, mimi.codebooks)
        self.coding.begin(begun)
        self._settings = settings
        width = settings.phones or settings.features
        self.head = nn.Linear(mimi.config.codebook_dim, width) if width and settings.trained == "all" else None
        self.discriminators = Discriminators(width=settings.discriminator_width) if settings.adversarial else None
        if settings.trained == "decoder":
            mimi.requires_grad_(False)
            for part in (mimi.upsample, mimi.decoder_transformer, mimi.decoder):
                part.requires_grad_(True)

    def train(self, mode: bool = True) -> "MimiTask":
        """As any module's; codebooks that are not trained never follow what they code."""
        super().train(mode)
        if self._settings.trained == "decoder":
            self.coding.eval()
        return self

    def weigh(self, batch: AudioBatch) -> Tensor:
        """1: batches are all of a size."""
        return torch.ones(1, dtype=torch.float64, device=batch.audio.device)

    def forward(self, batch: AudioBatch, norms: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """``loss`` and its parts, each before its weight."""
        settings, original = self._settings, batch.audio
        said, coded = self.reconstruct(original, random)
        parts = {"spectral": spectral_loss(said, original), "absolute": (said - original).abs().mean()}
        if settings.trained == "all":
            parts["commitment"] = coded.commitment
        if settings.waveform:
            parts["waveform"] = waveform_loss(said, original)
        if self.head is not None:
            parts["distillation"] = self._distillation(coded.semantic, batch)
        if self.discriminators is not None:
            parts |= self._adversarial(self.discriminators, said.float(), original)
        total = torch.stack([getattr(settings, name, 1.0) * value for name, value in parts.items()]).sum()
        norm = norms[0].to(total.dtype)
        return {"loss": total / norm, **{name: value.detach() / norm for name, value in parts.items()}}

    def reconstruct(self, audio: Tensor, random: torch.Generator) -> tuple[Tensor, Quantized]:
        """Audio ``[B, 1, T * 1920]`` as it comes out, and what happened in between."""
        mimi = self.mimi
        latent = mimi.downsample.conv(mimi.encoder_transformer(mimi.encoder(audio)))  # [B, C, T]
        coded = self.coding(latent, random)
        x = mimi.decoder_transformer(mimi.upsample.convtr(coded.latent))
        return mimi.decoder(x), coded

    def _distillation(self, semantic: Tensor, batch: AudioBatch) -> Tensor:
        assert self.head is not None
        predicted = self.head(semantic.transpose(1, 2))  # [B, T, P or D]
        if self._settings.phones:
            assert batch.labels is not None, "phones are distilled, and this batch has no labels"
            return phone_distillation(predicted, batch.labels)
        assert batch.features is not None, "features are distilled, and this batch has none"
        return cosine_distillation(predicted, batch.features)

    def _adversarial(self, discriminators: Discriminators, said: Tensor, original: Tensor) -> dict[str, Tensor]:
        """Both sides' losses in one pass: the codec's sees the discriminators standing still, theirs the audio."""
        still = {name: parameter.detach() for name, parameter in discriminators.named_parameters()}
        fake_scores, fake_features = functional_call(discriminators, still, (said,))
        real_scores, real_features = discriminators(original)
        told_scores, _ = discriminators(said.detach())
        return {
            "adversarial": hinge_generator(fake_scores),
            "feature_matching": feature_matching(real_features, fake_features),
            "discriminator": hinge_discriminator(real_scores, told_scores),
        }


@torch.no_grad()
def initialise(mimi: Mimi, random: torch.Generator) -> Mimi:
    """Draw weights that keep signals alive through an untrained codec (reference/tiny.md, parts A and B).

    Kernels at the gain of their fan-in, biases 0, layer scales 0.1, audio made 8 times louder inside.
    """
    for name, parameter in mimi.named_parameters():
        if name.endswith("scale"):
            parameter.fill_(0.1)
        elif "norm" in name:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        elif parameter.dim() == 1:
            parameter.zero_()
        else:
            # A transposed kernel has twice as many taps as its stride: two of them meet in each sample.
            fan_in = parameter[0].numel()
            if "convtr" in name:
                fan_in = 2 if parameter.shape[1] == 1 else 2 * parameter.shape[0]
            drawn = torch.randn(parameter.shape, generator=random)
            parameter.copy_(drawn * (1.4 if name.startswith(("encoder.", "decoder.")) else 1.0) / sqrt(fan_in))
    weights = dict(mimi.named_parameters())
    weights["encoder.model.0.conv.conv.weight"].mul_(8)
    last = len(mimi.decoder.model) - 1
    weights[f"decoder.model.{last}.conv.conv.weight"].mul_(0.05)
    return mimi
