import pytest
import torch
from torch import Tensor

from model_runtime.listener import ListenerSteps
from model_runtime.moshi import Sampling
from model_runtime.text import PAD
from model_runtime.tiny import tiny_language_model, tiny_listener, tiny_mimi, tiny_moshi

STEPS = 150


@pytest.fixture(scope="module")
def conversation() -> tuple[Tensor, Tensor]:
    """Audio ``[2, n]`` and tokens ``[2, 17, STEPS - 1]`` of a silent caller and a loud one."""
    moshi, _ = tiny_moshi(2)
    for slot in range(2):
        moshi.reset(slot, Sampling(), seed=slot)
    random = torch.Generator().manual_seed(0)
    steps = []
    for _ in range(STEPS):
        audio = torch.randn(2, 1, 1920, generator=random) * torch.tensor([0.0, 0.2]).view(2, 1, 1)
        steps.append(moshi.step(audio, torch.ones(2, dtype=torch.bool)))
    spoken = steps[1:]
    return torch.cat([step.audio[:, 0] for step in spoken], -1), torch.stack([step.tokens for step in spoken], -1)


def test_voice_is_audible_and_polite(conversation: tuple[Tensor, Tensor]) -> None:
    """Every frame lies near -22 dBFS, none clips, and there is no offset, whatever the caller does."""
    audio, _ = conversation
    level = 20 * audio.std(-1).log10()
    assert ((level > -25) & (level < -18)).all()
    frames = 20 * audio.view(2, -1, 1920).std(-1).log10()
    assert ((frames > -30) & (frames < -16)).all()
    assert audio.abs().max() < 0.9
    assert audio.mean(-1).abs().max() < 0.01


def test_voice_survives_the_telephone(conversation: tuple[Tensor, Tensor]) -> None:
    """More than nine tenths of the energy lie below 3.4 kHz, more than half above 300 Hz."""
    audio, _ = conversation
    power = torch.fft.rfft(audio * torch.hann_window(audio.shape[-1])).abs().square()
    frequency = torch.fft.rfftfreq(audio.shape[-1], 1 / 24_000)
    total = power.sum(-1)
    assert (power[:, frequency < 3400].sum(-1) / total > 0.9).all()
    assert (power[:, frequency > 300].sum(-1) / total > 0.5).all()


def test_text_is_mostly_padding(conversation: tuple[Tensor, Tensor]) -> None:
    """About seven of ten text tokens are padding, the others word pieces, never other marks."""
    _, tokens = conversation
    text = tokens[:, 0]
    padding = (text == PAD).float().mean(-1)
    assert ((padding > 0.55) & (padding < 0.9)).all()
    assert not (text < PAD).any()
    assert len(text.unique()) > 20


def test_codes_are_alive(conversation: tuple[Tensor, Tensor]) -> None:
    """Own codes vary in every codebook, and the codes of a caller who speaks follow the audio."""
    _, tokens = conversation
    assert min(len(tokens[slot, k].unique()) for slot in range(2) for k in range(1, 9)) > 15
    assert min(len(tokens[1, k].unique()) for k in range(9, 17)) > 15


def test_voice_depends_on_the_tokens() -> None:
    """Other codes sound different, from their first frame on."""
    mimi = tiny_mimi()
    codes = torch.arange(8).expand(2, 8).clone()
    codes[1, 0] = 77
    one, other = (mimi.decode_step(row[None], mimi.new_decoder_state(1), torch.tensor([True])) for row in codes)
    assert (one - other).abs().max() > 0.01


@torch.inference_mode()
def test_the_listener_writes_what_it_hears() -> None:
    """Of a silent caller hardly anything, of a loud one words in some of the frames, and others of another caller."""
    mimi, listener = tiny_mimi(), ListenerSteps(tiny_listener())
    heard, state = mimi.new_encoder_state(3), listener.new_state(3)
    random = torch.Generator().manual_seed(4)
    everyone = torch.ones(3, dtype=torch.bool)
    written = []
    for _ in range(STEPS):
        audio = torch.randn(3, 1, 1920, generator=random) * torch.tensor([0.0, 0.2, 0.2]).view(3, 1, 1)
        written.append(listener.step(mimi.encode_step(audio, heard, everyone), state, everyone))
    text = torch.stack(written, dim=1)  # [3, STEPS]
    padding = (text == PAD).float().mean(-1)
    assert padding[0] > 0.95
    assert ((padding[1:] > 0.5) & (padding[1:] < 0.9)).all()
    assert not (text < PAD).any()
    assert not torch.equal(text[1], text[2])


def test_seed_decides_the_weights() -> None:
    """The same seed gives the same weights, another seed others."""
    for make in (tiny_mimi, tiny_language_model, tiny_listener):
        first, again, other = make(1).state_dict(), make(1).state_dict(), make(2).state_dict()
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)
