import torch

from model_runtime.layout import by_column, lay_out
from model_runtime.lm.language_model import LanguageModel


@torch.no_grad()
def test_laid_out_model_is_the_same(small_lm: LanguageModel) -> None:
    """Laying out changes no name, shape or value, and what is computed stays within rounding."""
    tokens = torch.randint(50, (2, 17, 9), generator=torch.Generator().manual_seed(1))
    before = {name: tensor.clone() for name, tensor in small_lm.state_dict().items()}
    hidden, expected = small_lm(tokens)
    codes = small_lm.depth_logits(hidden[:, -1], tokens[:, 0, 0], tokens[:, 1:9, 0])
    lay_out(small_lm)
    lay_out(small_lm)
    after = small_lm.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    torch.testing.assert_close(small_lm(tokens)[1], expected, rtol=0, atol=1e-5)
    again = small_lm.depth_logits(hidden[:, -1], tokens[:, 0, 0], tokens[:, 1:9, 0])
    torch.testing.assert_close(again, codes, rtol=0, atol=1e-5)


@torch.no_grad()
def test_cast_model_uses_its_own_weights(small_lm: LanguageModel) -> None:
    """After a change of dtype nothing of the old layout is used."""
    lay_out(small_lm)
    half = small_lm.to(torch.bfloat16)
    codes = half.generate_codes(
        torch.ones(1, 64, dtype=torch.bfloat16), torch.tensor([1]), lambda _, logits: logits.argmax(-1)
    )
    assert codes.shape == (1, 8)


def test_matrices_that_narrow_stay() -> None:
    """A wide output is made contiguous by column; a narrow one, and other types, are left as published."""
    wide, narrow = torch.randn(6, 3), torch.randn(3, 6)
    assert by_column(wide).stride() == (1, 6)
    assert by_column(narrow) is narrow
    assert by_column(by_column(wide)).stride() == (1, 6)
    for dtype in (torch.int8, torch.float16, torch.bfloat16):
        assert by_column(wide.to(dtype)).stride() == (3, 1)
