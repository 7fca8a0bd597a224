"""agent/events/backlog.py: whose turn it is, under any sequence of answers."""

import random

import pytest

from agent.events.backlog import AT_ONCE, Backlog, Backoff, Turn, Verdict


def test_pauses_double_to_a_minute() -> None:
    """From half a second up to 60 s, at least half of it whatever chance says."""
    longest = Backoff(chance=lambda: 1.0)
    shortest = Backoff(chance=lambda: 0.0)
    assert [longest.pause(failures) for failures in (1, 2, 3, 7, 8, 1000)] == [0.5, 1, 2, 32, 60, 60]
    assert [shortest.pause(failures) for failures in (1, 1000)] == [0.25, 30]


def test_those_that_fail_together_count_once() -> None:
    """Eight requests that were on their way when the server died make one pause, not the eighth."""
    backlog = Backlog(Backoff(chance=lambda: 1.0))
    for call in range(20):
        backlog.put(str(call), call)
    turns = [turn for _ in range(AT_ONCE + 1) if (turn := backlog.take(0.0))]
    assert len(turns) == AT_ONCE
    for turn in turns:
        backlog.settle(turn, Verdict.FAILED, 1.0)
    assert backlog.take(1.49) is None
    assert backlog.next_at() == 1.5
    probe = backlog.take(1.5)
    assert probe is not None
    assert backlog.take(1.5) is None, "one at a time"
    backlog.settle(probe, Verdict.ACCEPTED, 2.0)
    assert not backlog.failing


@pytest.mark.parametrize("seed", range(30))
def test_order_holds_under_any_answers(seed: int) -> None:
    """Whatever is answered and given up, a call's events are settled in order, one at a time, and none is forgotten."""
    chance = random.Random(seed)
    backlog = Backlog(Backoff(chance=chance.random))
    position, now, floor, dropped = 0, 0.0, 0, 0
    settled: dict[str, list[int]] = {}
    under_way: list[Turn] = []
    for _ in range(3000):
        now += chance.random() * 0.5
        what = chance.random()
        if what < 0.3 and position < 600:
            backlog.put(str(chance.randrange(12)), position)
            position += 1
        elif what < 0.31:
            floor = max(floor, position - 40)
            dropped += backlog.drop(floor)
        elif what < 0.7 and (turn := backlog.take(now)) is not None:
            assert turn.call not in [other.call for other in under_way]
            under_way.append(turn)
            assert len(under_way) <= AT_ONCE
        elif under_way:
            turn = under_way.pop(chance.randrange(len(under_way)))
            verdict = chance.choices(list(Verdict), [6, 1, 3, 1])[0]
            before = backlog.waiting
            backlog.settle(turn, verdict, now)
            if verdict is not Verdict.FAILED and backlog.waiting < before:
                settled.setdefault(turn.call, []).append(turn.position)
    for _ in range(20_000):
        now += 61
        while (turn := backlog.take(now)) is not None:
            under_way.append(turn)
        if not under_way:
            break
        turn, before = under_way.pop(), backlog.waiting
        backlog.settle(turn, Verdict.ACCEPTED, now)
        if backlog.waiting < before:
            settled.setdefault(turn.call, []).append(turn.position)
    assert backlog.waiting == 0
    assert all(positions == sorted(positions) for positions in settled.values())
    assert sum(map(len, settled.values())) + dropped == position
    assert backlog.next_at() is None
