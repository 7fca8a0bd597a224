import torch

from model_runtime.sampling import GREEDY, Sampling, SlotSampler, draw
from model_runtime.text import PAD

CPU = torch.device("cpu")


def test_frequencies_follow_the_distribution() -> None:
    """Tokens are drawn as often as softmax(logits / temperature) says."""
    rows = 20_000
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    noise = torch.empty(rows, 4).exponential_(generator=torch.Generator().manual_seed(0))
    tokens = draw(logits.expand(rows, -1), torch.full((rows,), 0.8), torch.full((rows,), 4), noise)
    frequency = tokens.bincount(minlength=4) / rows
    torch.testing.assert_close(frequency, (logits / 0.8).softmax(0), rtol=0, atol=0.015)


def test_top_k_is_exact_and_per_row() -> None:
    """Each row draws from exactly its own k likeliest tokens, though others tie with the last of them."""
    rows = 3_000
    logits = torch.tensor([0.0, 3.0, 1.0, 1.0, 1.0, 2.0]).expand(rows, -1)
    noise = torch.empty(rows, 6).exponential_(generator=torch.Generator().manual_seed(1))
    top_k = torch.tensor([1, 2, 3]).repeat(rows // 3)
    tokens = draw(logits, torch.full((rows,), 5.0), top_k, noise)
    assert [len(tokens[top_k == k].unique()) for k in (1, 2, 3)] == [1, 2, 3]
    assert set(tokens[top_k == 2].tolist()) == {1, 5}


def test_temperature_zero_takes_the_likeliest() -> None:
    """A row of temperature 0 is greedy beside rows that are not, and takes the first of equals."""
    logits = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    noise = torch.tensor([[1e-9, 1.0, 1e-9], [1.0, 1.0, 1e-9]])
    assert draw(logits, torch.tensor([0.0, 1.0]), torch.tensor([3, 3]), noise).tolist() == [1, 2]


def test_noise_belongs_to_the_slot() -> None:
    """A slot's draws depend on its seed and on the steps it took part in, not on its neighbours or its number."""
    alone = SlotSampler(1, 5, 7, 2, CPU)
    alone.reset(0, Sampling(), 13)
    crowd = SlotSampler(3, 5, 7, 2, CPU)
    crowd.reset(2, Sampling(), 13)
    logits = torch.zeros(3, 7)
    for n in range(20):
        crowd.prepare([n % 2 == 0, True, False])
        crowd.prepare([n % 3 == 0, False, True])
        alone.prepare([True])
        for k in range(2):
            assert crowd.code(k, logits)[2] == alone.code(k, logits[:1])[0]


def test_streams_of_one_step_draw_independently() -> None:
    """Text and each code have noise of their own, and each step has new noise."""
    sampler = SlotSampler(1, 50, 50, 2, CPU)
    sampler.reset(0, Sampling(1.0, 50, 1.0, 50), 1)
    drawn = set()
    for _ in range(4):
        sampler.prepare([True])
        logits = torch.zeros(1, 50)
        drawn.add((int(sampler.text(logits)), int(sampler.code(0, logits)), int(sampler.code(1, logits))))
    assert len(drawn) == 4
    assert any(len(set(step)) == 3 for step in drawn)


def test_greedy_settings() -> None:
    """GREEDY makes text and audio greedy."""
    sampler = SlotSampler(1, 4, 4, 1, CPU)
    sampler.reset(0, GREEDY, 1)
    sampler.prepare([True])
    logits = torch.tensor([[0.0, 0.1, 0.3, 0.2]])
    assert (int(sampler.text(logits)), int(sampler.code(0, logits))) == (2, 2)


def test_settings_without_effect_draw_the_same() -> None:
    """With the default bias and penalty the tokens are those drawn of the logits as they are."""
    sampler = SlotSampler(1, 50, 50, 1, CPU)
    sampler.reset(0, Sampling(), 4)
    random = torch.Generator().manual_seed(2)
    noise = torch.empty(1, 25)
    again = torch.Generator().manual_seed(4)
    for _ in range(50):
        logits = torch.randn(1, 50, generator=random) * 3
        sampler.prepare([True])
        noise.exponential_(generator=again)
        expected = draw(logits, torch.tensor([0.7]), torch.tensor([25]), noise)
        torch.empty(1, 50).exponential_(generator=again)  # the code's
        token = sampler.text(logits)
        assert torch.equal(token, expected)
        sampler.text_bias.note(token, torch.tensor([True]))


def test_bias_and_penalty_are_the_slots_own() -> None:
    """One slot says nothing, one never pads, one does not say a word again; a reset ends it."""
    sampler = SlotSampler(3, 30, 4, 1, CPU)
    for slot, sampling in enumerate(
        (Sampling(pad_bias=100.0), Sampling(pad_bias=-100.0), Sampling(0.0, 1, 0.0, 1, repetition_penalty=10.0))
    ):
        sampler.reset(slot, sampling, slot)
    logits = (torch.arange(30, 0, -1) / 30).expand(3, -1).clone()
    logits[:, :PAD] = -9.0
    logits[2, PAD] = -9.0
    drawn = []
    for _ in range(10):
        sampler.prepare([True] * 3)
        drawn.append(sampler.text(logits))
        sampler.text_bias.note(drawn[-1], torch.tensor([True] * 3))
    silent, talkative, various = torch.stack(drawn, dim=1).tolist()
    assert set(silent) == {PAD}
    assert PAD not in talkative
    assert various == list(range(4, 14)), "greedy, it would say one word for ever"
    for slot in range(3):
        sampler.reset(slot, GREEDY, 0)
    sampler.prepare([True] * 3)
    assert sampler.text(logits).tolist() == [PAD, PAD, 4]


def test_candidates_only_grow() -> None:
    """As many tokens are ranked as the largest top-k ever asked for, and a greedy slot asks for none."""
    sampler = SlotSampler(2, 1000, 500, 1, CPU)
    assert sampler.candidates == (25, 250)
    sampler.reset(0, Sampling(text_top_k=700, audio_top_k=9000), 1)
    sampler.reset(0, GREEDY, 1)
    assert sampler.candidates == (700, 500)
    assert sampler.rows(1).candidates == (700, 500)
