from math import log

import pytest
import torch

from model_runtime.training.discriminators import Discriminators
from model_runtime.training.mimi_losses import (
    commitment_loss,
    cosine_distillation,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    mel_filters,
    phone_distillation,
    spectral_loss,
    waveform_loss,
)
from tests.model_runtime.training.toys import toy_audio


def test_small_cases_by_hand() -> None:
    """Commitment, hinge, feature matching and both distillations of a few numbers."""
    one, two = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 1.0]])
    assert float(commitment_loss(one, two)) == pytest.approx((1 + 4) / 2)
    real, fake = [torch.tensor([2.0, 0.5])], [torch.tensor([-2.0, 0.0])]
    assert float(hinge_discriminator(real, fake)) == pytest.approx(0.25 + 0.5)
    assert float(hinge_generator(fake)) == pytest.approx((3 + 1) / 2)
    assert float(feature_matching([[one]], [[two]])) == pytest.approx(1.5 / 2)
    assert float(cosine_distillation(one[None], torch.tensor([[[3.0, -1.0]]]))) == pytest.approx(1)
    logits = torch.tensor([[[log(3.0), 0.0], [0.0, 0.0], [5.0, 0.0]]])
    assert float(phone_distillation(logits, torch.tensor([[0, 1, -1]]))) == pytest.approx((log(4 / 3) + log(2)) / 2)
    assert float(phone_distillation(logits, torch.full((1, 3), -1))) == 0


def test_spectral_loss_hears_differences() -> None:
    """It is least for the same audio, grows with noise and is deaf to sign, which the waveform's is not."""
    audio = toy_audio(1).audio
    noise = torch.randn(audio.shape, generator=torch.Generator().manual_seed(1))
    losses = [float(spectral_loss(audio + level * noise, audio)) for level in (0.0, 0.01, 0.1)]
    assert losses[0] < 1e-3
    assert losses == sorted(losses)
    assert float(spectral_loss(-audio, audio)) < 1e-3
    assert float(waveform_loss(-audio, audio)) > 0.01
    assert float(waveform_loss(audio, audio)) == 0


def test_mel_filters_cover_the_spectrum() -> None:
    """Every filter hears something where bins are fine enough, and each bin between the edges is heard by some."""
    filters = mel_filters(2048, 64)
    assert (filters.sum(1) > 0).all()
    assert (filters[:, 2:-1].sum(0) > 0).all()
    assert float(filters.max()) <= 1


def test_discriminators_learn_to_tell() -> None:
    """Trained for some steps they tell tones from noise, and their features have a gradient for the codec."""
    torch.manual_seed(0)
    discriminators = Discriminators((512, 128), width=4)
    audio = toy_audio(1, frames=2).audio
    noise = 0.2 * torch.randn(audio.shape)
    optimizer = torch.optim.Adam(discriminators.parameters(), lr=3e-2)
    losses = []
    for _ in range(25):
        loss = hinge_discriminator(discriminators(audio)[0], discriminators(noise)[0])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    said = noise.clone().requires_grad_()
    feature_matching(discriminators(audio)[1], discriminators(said)[1]).backward()  # type: ignore[no-untyped-call]
    assert said.grad is not None
    assert said.grad.abs().sum() > 0
