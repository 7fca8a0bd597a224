import pytest
import torch

from model_runtime.mimi.conv import Padding, StreamingConv1d, StreamingConvTranspose1d

EVERYONE = torch.ones(2, dtype=torch.bool)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (7, 1), (4, 2), (16, 8)])
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_convolution_streams(kernel: int, stride: int, padding: Padding) -> None:
    """Pieces of any whole number of strides give what the whole gives, bias and padding included."""
    torch.manual_seed(0)
    conv = StreamingConv1d(3, 4, kernel, stride=stride, padding=padding).requires_grad_(False)
    x = torch.randn(2, 3, 24 * stride)
    whole = conv(x)
    assert whole.shape == (2, 4, 24)
    for pieces in (1, 2, 8):
        state = conv.new_state(2)
        parts = [conv(piece, state, EVERYONE) for piece in x.split(pieces * stride, -1)]
        torch.testing.assert_close(torch.cat(parts, -1), whole)


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(4, 2, 1), (4, 2, 4), (16, 8, 1), (2, 2, 1)])
def test_transposed_convolution_streams(kernel: int, stride: int, groups: int) -> None:
    """Overlapping tails are carried on exactly once, bias included."""
    torch.manual_seed(0)
    conv = StreamingConvTranspose1d(4, 4, kernel, stride=stride, groups=groups).requires_grad_(False)
    x = torch.randn(2, 4, 24)
    whole = conv(x)
    assert whole.shape == (2, 4, 24 * stride)
    torch.testing.assert_close(whole, conv.convtr["convtr"](x)[..., : 24 * stride])
    for pieces in (1, 2, 8):
        state = conv.new_state(2)
        parts = [conv(piece, state, EVERYONE) for piece in x.split(pieces, -1)]
        torch.testing.assert_close(torch.cat(parts, -1), whole)


def test_replicate_padding_repeats_the_first_sample() -> None:
    """What stands before the first sample is that sample, in whole and in streamed audio, again after a reset."""
    conv = StreamingConv1d(1, 1, 4, stride=2, bias=False, padding="replicate").requires_grad_(False)
    conv.conv["conv"].weight.fill_(1.0)
    x = torch.tensor([[[3.0, 1.0]]])
    assert conv(x).item() == 10.0
    state = conv.new_state(1)
    once = torch.ones(1, dtype=torch.bool)
    assert [conv(x, state, once).item() for _ in range(2)] == [10.0, 8.0]
