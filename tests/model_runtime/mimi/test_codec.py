from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from model_runtime.checkpoint.config import MimiConfig
from model_runtime.mimi.codec import Mimi
from model_runtime.state import reset_slot, slot_tensors

FRAMES = 14
"""More than twice the small codec's context of 5 frames, so every ring has wrapped."""


def recording(slots: int = 3, frames: int = FRAMES) -> Tensor:
    """Noise whose loudness differs between slots and over time."""
    random = torch.Generator().manual_seed(7)
    loudness = torch.linspace(0.05, 0.5, frames).repeat_interleave(1920)
    return torch.randn(slots, 1, frames * 1920, generator=random) * loudness


def stream_encode(mimi: Mimi, audio: Tensor, ring: int | None) -> Tensor:
    """Codes ``[B, K, T]``, encoded frame by frame."""
    state = mimi.new_encoder_state(len(audio), ring)
    everyone = torch.ones(len(audio), dtype=torch.bool)
    return torch.stack([mimi.encode_step(frame, state, everyone) for frame in audio.split(1920, -1)], -1)


def stream_decode(mimi: Mimi, codes: Tensor, ring: int | None) -> Tensor:
    """Audio ``[B, 1, T * 1920]``, decoded frame by frame."""
    state = mimi.new_decoder_state(len(codes), ring)
    everyone = torch.ones(len(codes), dtype=torch.bool)
    return torch.cat([mimi.decode_step(codes[..., t], state, everyone) for t in range(codes.shape[-1])], -1)


def test_offline_equals_reference(small_mimi: Mimi, reference_mimi: Callable[[], nn.Module]) -> None:
    """Whole recordings have the reference's codes, and its audio within 1e-4 of the peak."""
    theirs, audio = reference_mimi(), recording()
    codes = small_mimi.encode(audio)
    assert len(codes.unique()) > 32
    assert torch.equal(codes, theirs.encode(audio))
    said, expected = small_mimi.decode(codes), theirs.decode(codes)
    assert (said - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_streaming_equals_deployed_reference(small_mimi: Mimi, reference_mimi: Callable[[], nn.Module]) -> None:
    """With a ring of the context's size (250 as deployed) streaming equals the reference's streaming."""
    encoder, decoder, audio = reference_mimi(), reference_mimi(), recording()
    codes = stream_encode(small_mimi, audio, None)
    with encoder.streaming(len(audio)):
        expected = torch.cat([encoder.encode(frame) for frame in audio.split(1920, -1)], -1)
    assert torch.equal(codes, expected)
    with decoder.streaming(len(audio)):
        spoken = torch.cat([decoder.decode(codes[..., t : t + 1]) for t in range(FRAMES)], -1)
    said = stream_decode(small_mimi, codes, None)
    assert (said - spoken).abs().max() <= 1e-4 * spoken.abs().max()


def test_streaming_equals_offline_with_larger_ring(small_mimi: Mimi) -> None:
    """With a ring one larger than the context (251) streaming equals one pass over the recording."""
    audio, ring = recording(), small_mimi.config.context + 1
    codes = small_mimi.encode(audio)
    assert torch.equal(stream_encode(small_mimi, audio, ring), codes)
    said, expected = stream_decode(small_mimi, codes, ring), small_mimi.decode(codes)
    assert (said - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_deployed_ring_differs_from_offline_only_once_full(small_mimi: Mimi) -> None:
    """The deployed ring gives offline audio until it is full, and other audio afterwards."""
    codes = small_mimi.encode(recording())
    said, expected = stream_decode(small_mimi, codes, None), small_mimi.decode(codes)
    full = small_mimi.config.context // 2 * 1920
    torch.testing.assert_close(said[..., :full], expected[..., :full], rtol=0, atol=1e-5)
    assert not torch.allclose(said[..., full:], expected[..., full:], rtol=0, atol=1e-4)


def test_masked_slot_is_untouched(small_mimi: Mimi) -> None:
    """A step leaves the state of masked slots as it is, bit for bit, and gaps do not show in their codes or audio."""
    audio = recording(2)
    codes = small_mimi.encode(audio)
    encoding, decoding = small_mimi.new_encoder_state(2), small_mimi.new_decoder_state(2)
    heard, said = [], []
    for t, frame in enumerate(audio.split(1920, -1)):
        for mask in (torch.tensor([True, False]), torch.tensor([False, True])):
            resting = int(mask.logical_not().nonzero())
            before = [tensor[resting].clone() for state in (encoding, decoding) for tensor in slot_tensors(state)]
            heard.append(small_mimi.encode_step(frame, encoding, mask)[mask])
            said.append(small_mimi.decode_step(codes[..., t], decoding, mask)[mask])
            after = [tensor[resting] for state in (encoding, decoding) for tensor in slot_tensors(state)]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    together = stream_encode(small_mimi, audio, None)
    assert torch.equal(torch.cat(heard).view(FRAMES, 2, 8).permute(1, 2, 0), together)
    alike = torch.cat(said).view(FRAMES, 2, 1920).transpose(0, 1).reshape(2, 1, -1)
    torch.testing.assert_close(alike, stream_decode(small_mimi, codes, None), rtol=0, atol=1e-5)


def test_reset_slot_is_fresh(small_mimi: Mimi) -> None:
    """After a reset a slot codes a recording as a new one would, and its neighbour goes on."""
    audio = recording(2)
    everyone = torch.ones(2, dtype=torch.bool)
    expected = stream_encode(small_mimi, audio, None)
    state = small_mimi.new_encoder_state(2)
    frames = audio.split(1920, -1)
    for frame in frames[:5]:
        small_mimi.encode_step(frame, state, everyone)
    reset_slot(state, 0)
    for t in range(FRAMES - 5):
        frame = torch.stack([frames[t][0], frames[t + 5][1]])
        codes = small_mimi.encode_step(frame, state, everyone)
        assert torch.equal(codes[0], expected[0, :, t])
        assert torch.equal(codes[1], expected[1, :, t + 5])


def test_published_shape() -> None:
    """The published geometry has the reference's 318 tensors and 79.3 million parameters."""
    with torch.device("meta"):
        mimi = Mimi(MimiConfig())
    names = mimi.state_dict()
    assert len(names) == 318
    assert round(sum(parameter.numel() for parameter in mimi.parameters()) / 1e6, 1) == 79.3
    assert names["downsample.conv.conv.conv.weight"].shape == (512, 512, 4)
    assert names["upsample.convtr.convtr.convtr.weight"].shape == (512, 1, 4)
    assert names["encoder_transformer.transformer.layers.7.self_attn.in_proj_weight"].shape == (1536, 512)
    assert names["quantizer.rvq_rest.vq.layers.30._codebook.embedding_sum"].shape == (2048, 256)


@pytest.mark.parametrize("seconds", [0.05, 0.1])
def test_partial_frame_is_refused(small_mimi: Mimi, seconds: float) -> None:
    """Audio that is not a whole number of frames is refused."""
    with pytest.raises(AssertionError):
        small_mimi.encode(torch.zeros(1, 1, int(24_000 * seconds)))
