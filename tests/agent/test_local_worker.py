"""agent/local_worker.py: what a worker process is handed."""

import os

from pydantic import SecretStr

from agent.local_worker import hand_over, handed_over
from config.schema import ModelSettings


def test_settings_reach_the_worker_whole() -> None:
    """Secrets included, through a file that has no name and that nobody else can open."""
    settings = ModelSettings(kind="moshi", checkpoint="random:tiny", slots=3, token=SecretStr("0123456789abcdef"))
    with hand_over(settings, "debug") as file:
        received, level = handed_over(os.dup(file.fileno()))
    assert (received, level) == (settings, "debug")
    assert received.token is not None
    assert received.token.get_secret_value() == "0123456789abcdef"
