from prometheus_client import CollectorRegistry

from agent.measures.conversation_metrics import ConversationMetrics
from tests.agent.measures.scene import Scene, voice


def test_a_conversation_is_counted_under_its_agent() -> None:
    """Each measure of a closed conversation reaches its metric, with the agent's name as its label."""
    scene = Scene(16).agent_says(0.6, voice(3)).caller_says(3, voice(2)).agent_says(5.8, voice(5))
    scene.caller_says(7, voice(0.25)).caller_says(10, voice(2))
    registry = CollectorRegistry()
    metrics = ConversationMetrics(registry)
    metrics.observe("front_desk", scene.play())

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"agent": "front_desk", **labels})

    assert value("denwa_first_response_seconds_count") == 1
    assert value("denwa_turn_gap_seconds_bucket", le="0.75") == 0
    assert value("denwa_turn_gap_seconds_bucket", le="1.0") == 1
    assert value("denwa_barge_in_yield_seconds_count") == 2
    assert value("denwa_barge_ins_total", yielded="yes") == 2
    assert value("denwa_barge_ins_total", yielded="no") == 0
    assert value("denwa_backchannels_total") == 1
    assert value("denwa_overlaps_total") == 3
    spoken = (value("denwa_speech_seconds_total", speaker=side) for side in ("agent", "caller"))
    agent_s, caller_s = (each or 0.0 for each in spoken)
    union_s = agent_s + caller_s - (value("denwa_overlap_seconds_total") or 0.0)
    total_s = value("denwa_conversation_seconds_total") or 0.0
    assert abs(union_s + (value("denwa_silence_seconds_total") or 0.0) - total_s) < 1e-6
    assert value("denwa_agent_talk_ratio_count") == value("denwa_longest_silence_seconds_count") == 1
    assert value("denwa_calls_agent_unheard_total") in (None, 0)


def test_an_agent_that_was_never_heard_is_counted() -> None:
    """A caller who spoke to a silent agent counts; a call in which nobody spoke does not."""
    registry = CollectorRegistry()
    metrics = ConversationMetrics(registry)
    metrics.observe("mute", Scene(5).caller_says(1, voice(1)).play())
    metrics.observe("mute", Scene(5).play())
    assert registry.get_sample_value("denwa_calls_agent_unheard_total", {"agent": "mute"}) == 1
    assert registry.get_sample_value("denwa_first_response_seconds_count", {"agent": "mute"}) in (None, 0)
