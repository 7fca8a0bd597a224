"""Whether an agent's model can say what the agent's file gives it to say. Pure but for reading a tokenizer; no torch.

The models that come with Denwa know whole words, a hundred or two, and say nothing of a text with any other. That is
told when the configuration is read, for in a call it would be a silence. Other models' tokenizers can spell any word.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from config.agent_schema import AgentConfig
from config.errors import Finding
from config.schema import ModelSettings, Settings
from model_runtime.embedded import PREFIX, TOKENIZER, embedded_folder
from model_runtime.errors import CheckpointError
from model_runtime.text import TextTokenizer

_VARIABLE: Final = re.compile(r"\S*[{}]\S*")
"""A word that is known in the call alone."""


def checkpoint_findings(settings: Settings, file: Path) -> Iterator[Finding]:
    """The models whose checkpoint should come with Denwa and does not; workers elsewhere have their own files."""
    for name, model in settings.models.items():
        if model.checkpoint is not None and model.checkpoint.startswith(PREFIX) and not model.workers:
            try:
                embedded_folder(model.checkpoint)
            except CheckpointError as error:
                yield Finding(str(file), 1, f"models.{name}.checkpoint", str(error))


def unsayable(name: str, agent: AgentConfig, model: ModelSettings, file: Path) -> Iterator[Finding]:
    """The texts of an agent with words that its model does not have; ``file`` is the configuration's."""
    if model.checkpoint is None or not model.checkpoint.startswith(PREFIX):
        return
    try:
        tokenizer = _tokenizer(embedded_folder(model.checkpoint) / TOKENIZER)
    except CheckpointError:
        return  # told of the model
    for key, text in _texts(agent):
        if unknown := tokenizer.unknown_words(_VARIABLE.sub(" ", text)):
            words = ", ".join(map(repr, unknown))
            yield Finding(
                str(file),
                1,
                f"agents.{name}.{key}",
                f"{model.checkpoint} cannot say {words}; use its own words (docs/checkpoints.md), or another model",
            )


def _texts(agent: AgentConfig) -> Iterator[tuple[str, str]]:
    """All that the agent may be given to say, by key; not the words of sound files, which are only told."""
    if agent.consent.wav is None:
        yield "consent.text", agent.consent.text or ""
    if agent.greeting_wav is None:
        yield "greeting", agent.greeting or ""
    if agent.caller_silence_s is not None:
        yield from ((f"still_there[{index}]", text) for index, text in enumerate(agent.still_there))
        yield "silence_goodbye", agent.silence_goodbye or ""
    yield "hours.closed_message", agent.hours.closed_message or ""
    for index, action in enumerate(agent.actions):
        for number, step in enumerate(action.do):
            where = f"actions[{index}].do[{number}]"
            yield f"{where}.say", step.say or ""
            if step.transfer is not None:
                yield f"{where}.transfer.failed_say", step.transfer.failed_say or ""
            if step.webhook is not None:
                yield f"{where}.webhook.failed_say", step.webhook.failed_say or ""


@cache
def _tokenizer(path: Path) -> TextTokenizer:
    return TextTokenizer(path)
