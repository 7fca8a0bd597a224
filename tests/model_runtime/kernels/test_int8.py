import pytest
import torch

from model_runtime.kernels.int8 import Int8Linear, eager_linear, linear, quantize_, quantize_rows
from model_runtime.lm.language_model import LanguageModel


def test_rows_keep_their_largest_value() -> None:
    """Each row is scaled by its own largest magnitude, which comes back exactly; a row of zeros stays one."""
    weight = torch.tensor([[0.5, -2.0, 1.0], [0.0, 0.0, 0.0]])
    narrow, scb = quantize_rows(weight)
    assert narrow.tolist() == [[32, -127, 64], [0, 0, 0]]
    assert scb.tolist() == [2.0, 0.0]
    torch.testing.assert_close(narrow * scb[:, None] / 127, weight, rtol=0, atol=2.0 / 127 / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_is_that_of_the_widened_weight(dtype: torch.dtype) -> None:
    """The eager twin gives the product with ``CB * SCB / 127``, within the rounding of the input's type."""
    torch.manual_seed(0)
    narrow, scb = quantize_rows(torch.randn(30, 20))
    x = torch.randn(4, 1, 20)
    product = eager_linear(x.to(dtype), narrow, scb)
    assert product.dtype == dtype
    expected = x.to(dtype).float() @ (narrow * scb[:, None] / 127).T
    error = (product.float() - expected).abs().max() / expected.abs().max()
    assert error <= (1e-6 if dtype == torch.float32 else 1e-2)


def test_scales_stay_exact_when_the_module_is_cast() -> None:
    """Casting a module to bfloat16 leaves int8 weights and float32 scales as they are."""
    layer = Int8Linear.of(torch.nn.Linear(8, 4, bias=False)).to(torch.bfloat16)
    assert (layer.weight.dtype, layer.weight_scb.dtype) == (torch.int8, torch.float32)
    assert set(layer.state_dict()) == {"weight", "weight_scb"}


@torch.no_grad()
def test_quantised_language_model_is_near(small_lm: LanguageModel) -> None:
    """Every matrix but the embeddings turns into int8 under its published name, and the logits stay near."""
    tokens = torch.randint(50, (2, 17, 9), generator=torch.Generator().manual_seed(1))
    hidden, expected = small_lm(tokens)
    codes = small_lm.depth_logits(hidden[:, -1], tokens[:, 0, 0], tokens[:, 1:9, 0])
    shapes = {name: tensor.shape for name, tensor in small_lm.state_dict().items()}
    quantize_(small_lm)
    quantised = small_lm.state_dict()
    assert {name for name in quantised if not name.endswith("_scb")} == set(shapes)
    assert all(quantised[name].shape == shape for name, shape in shapes.items())
    narrow = {name for name, tensor in quantised.items() if tensor.dtype == torch.int8}
    assert narrow == {name for name, shape in shapes.items() if len(shape) == 2 and "emb" not in name}
    assert all(quantised[f"{name}_scb"].dtype == torch.float32 for name in narrow)
    assert (small_lm(tokens)[1] - expected).abs().max() / expected.abs().max() <= 0.05
    again = small_lm.depth_logits(hidden[:, -1], tokens[:, 0, 0], tokens[:, 1:9, 0])
    assert (again - codes).abs().max() / codes.abs().max() <= 0.05


def test_plain_weights_pass_through() -> None:
    """Without scales the product is the plain one."""
    x, weight = torch.randn(2, 3), torch.randn(4, 3)
    assert torch.equal(linear(x, weight), torch.nn.functional.linear(x, weight))
