import torch

from model_runtime.kv_cache import RingKVCache, RingStep
from model_runtime.kv_int8 import Int8RingKVCache, quantize
from model_runtime.lm.language_model import LanguageModel

CPU = torch.device("cpu")


def test_each_vector_has_a_scale_of_its_own() -> None:
    """Quiet heads and loud ones lose the same part of their own largest value: at most half a step of 1/127."""
    wide = (
        torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1.0, 50.0])[:, None, None]
    )
    wide[0, 0] = 0
    narrow, scale = quantize(wide)
    assert narrow.dtype == torch.int8
    lost = (narrow * scale[..., None] - wide).abs().amax(-1)
    assert (lost <= wide.abs().amax(-1) / 127 / 2 * 1.001).all()


def test_attention_stays_near() -> None:
    """What is heard differs by less than 1 % from the exact ring's, over a ring that has wrapped, with gaps."""
    random = torch.Generator().manual_seed(1)
    shape = {"slots": 3, "capacity": 20, "heads": 2, "head_dim": 32, "device": CPU, "dtype": torch.float32}
    exact, narrow = RingKVCache.allocate(**shape), Int8RingKVCache.allocate(**shape)
    assert narrow.nbytes < 0.3 * exact.nbytes
    offset = torch.zeros(3, dtype=torch.long)
    for _ in range(50):
        mask = torch.rand(3, generator=random) < 0.7
        step = RingStep.plan(offset, mask, 1, 20, 20, torch.float32)
        kv = torch.randn(3, 1, 2, 2, 32, generator=random)
        query = torch.randn(3, 4, 1, 32, generator=random)
        before = narrow.kv[~mask].clone()
        heard, expected = narrow.attend(query, kv, step), exact.attend(query, kv, step)
        assert torch.equal(narrow.kv[~mask], before)
        offset += mask
    assert (heard - expected).abs().max() <= 0.01 * expected.abs().max()


def test_slot_is_read_and_written_in_place() -> None:
    """What is put into places of a slot is read from them, and pinned keys can be replaced where asked."""
    ring = Int8RingKVCache.allocate(2, 6, 2, 8, device=CPU, dtype=torch.float32)
    kv = torch.randn(3, 2, 2, 8, generator=torch.Generator().manual_seed(2))
    places = torch.tensor([4, 0, 1])
    ring.put(1, places, kv)
    torch.testing.assert_close(ring.read(1, places), kv.permute(1, 2, 0, 3), rtol=0, atol=0.02)
    keys = torch.randn(2, 2, 2, 8, generator=torch.Generator().manual_seed(3))
    ring.put_keys(keys, torch.tensor([[False, False], [True, False]]))
    read = ring.read_keys(2)
    torch.testing.assert_close(read[1, 0], keys[1, 0], rtol=0, atol=0.02)
    torch.testing.assert_close(read[1, 1], kv[2, 0], rtol=0, atol=0.02)
    assert not read[0].any()


def test_language_model_with_int8_cache_stays_near(small_lm: LanguageModel) -> None:
    """Over more than three contexts the text logits stay within 3 % of those with an exact cache."""
    tokens = torch.randint(50, (2, 17, 40), generator=torch.Generator().manual_seed(4))
    everyone = torch.ones(2, dtype=torch.bool)
    exact = small_lm.new_state(2)
    small_lm.transformer.int8_cache = True
    narrow = small_lm.new_state(2)
    assert isinstance(narrow.transformer.rings[0], Int8RingKVCache)
    for t in range(40):
        _, expected = small_lm.step(tokens[..., t], exact, everyone)
        _, logits = small_lm.step(tokens[..., t], narrow, everyone)
        assert (logits - expected).abs().max() <= 0.03 * expected.abs().max()
