import torch

from model_runtime.kv_cache import RingKVCache, RingStep, causal_bias

CPU = torch.device("cpu")


def visible(step: RingStep, ring: RingKVCache, slot: int) -> list[list[int]]:
    """The positions each query of a slot sees, read from values that hold their own position."""
    seen = step.bias[slot, 0] == 0  # [T, capacity]
    return [sorted(int(p) for p in ring.kv[slot, 1, 0, : len(row), 0][row]) for row in seen]


def append(ring: RingKVCache, offset: torch.Tensor, mask: torch.Tensor, length: int, context: int) -> RingStep:
    """Write each position's own number as its key and value."""
    step = RingStep.plan(offset, mask, length, ring.capacity, context, torch.float32)
    kv = step.positions.float()[:, :, None, None, None].expand(-1, -1, 2, 1, 1)
    ring.append(kv, step)
    offset += mask * length
    return step


def test_ring_shows_the_last_positions_of_each_slot() -> None:
    """A query sees itself and at most context - 1 earlier positions, in slots that advance differently."""
    ring = RingKVCache.allocate(2, 5, 1, 1, device=CPU, dtype=torch.float32)
    offset, steps = torch.zeros(2, dtype=torch.long), [0, 0]
    random = torch.Generator().manual_seed(0)
    for _ in range(40):
        mask = torch.rand(2, generator=random) < 0.6
        step = append(ring, offset, mask, 1, 5)
        for slot in range(2):
            if mask[slot]:
                now = steps[slot]
                assert visible(step, ring, slot) == [list(range(max(0, now - 4), now + 1))]
                steps[slot] += 1


def test_pairs_in_a_ring_of_the_context() -> None:
    """In the deployed ring the first query of a pair sees one key fewer once it is full; one more place cures it."""
    for capacity, first in ((4, [6, 7, 8]), (5, [5, 6, 7, 8])):
        ring = RingKVCache.allocate(1, capacity, 1, 1, device=CPU, dtype=torch.float32)
        offset = torch.zeros(1, dtype=torch.long)
        for _ in range(5):
            step = append(ring, offset, torch.tensor([True]), 2, 4)
        assert visible(step, ring, 0)[0] == first
        assert visible(step, ring, 0)[1] == [6, 7, 8, 9]


def test_masked_slot_keeps_its_ring_and_a_finite_view() -> None:
    """A masked step writes nothing, and even in a fresh slot its query sees something, so nothing turns to NaN."""
    ring = RingKVCache.allocate(1, 4, 1, 1, device=CPU, dtype=torch.float32)
    before = ring.kv.clone()
    step = append(ring, torch.zeros(1, dtype=torch.long), torch.tensor([False]), 1, 4)
    assert torch.equal(ring.kv, before)
    assert (step.bias == 0).any()


def test_bias_of_a_whole_sequence() -> None:
    """Offline, position t sees t - context + 1 to t."""
    positions = torch.arange(6)[None]
    seen = causal_bias(positions, positions, 3, torch.float32)[0, 0] == 0
    assert [row.nonzero().squeeze(1).tolist() for row in seen][3:] == [[1, 2, 3], [2, 3, 4], [3, 4, 5]]
