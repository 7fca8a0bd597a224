"""Moshi as the engine steps it: 16-bit audio and numpy on one side, torch on the other."""

import logging
from collections import OrderedDict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from config.audio import FRAME_SAMPLES
from model_runtime.engine.graph import StepGraphs
from model_runtime.engine.model import AgentPrompt, Beginning, Past, Samples, SamplingOptions, StepOutput
from model_runtime.errors import CheckpointError, ProtocolError
from model_runtime.greeting import Greetings, plan_text
from model_runtime.listener import Listener
from model_runtime.lm.delays import NOT_FORCED, UNGENERATED
from model_runtime.moshi import Moshi
from model_runtime.prompts import PersonaPrompts
from model_runtime.resume import History, PreparedPrompt, begin, prepare_prompt
from model_runtime.sampling import Sampling
from model_runtime.speech_plan import Script, find_start
from model_runtime.text import TextTokenizer

log = logging.getLogger(__name__)

_FULL_SCALE = 32_768
_PROMPTS_KEPT: Final = 8
"""Prompts whose caches are kept on the device, the last used ones."""


class MoshiModel:
    """Adapts ``Moshi`` to the engine's ``Model``; a slot that is not ready yet gives silence and no text."""

    def __init__(
        self,
        moshi: Moshi,
        tokenizer: TextTokenizer,
        voices: Path | None = None,
        listener: Listener | None = None,
    ) -> None:
        """``voices`` is the folder of the voice samples that prompts may name: NAME.wav or NAME.pt.

        ``listener`` is whose model ``moshi`` has beside it to write down the caller, if it has one.
        """
        assert (listener is None) == (moshi.listener is None)
        self._moshi = moshi
        self._graphs = StepGraphs(moshi)
        self._tokenizer = tokenizer
        self._voices = voices
        self._listener = listener
        self._persona = PersonaPrompts(moshi.lm.config, moshi.mimi, tokenizer)
        self._greetings = Greetings(moshi.lm.config, moshi.mimi, tokenizer)
        self._prompts: OrderedDict[tuple[str, str], PreparedPrompt] = OrderedDict()
        self._scripts: dict[int, Script] = {}  # by slot, while there is something to say or to wait for
        self._next_rows: dict[int, Tensor] = {}  # by slot, what a prompt has left for the first step
        self._last_text = np.full(moshi.slots, UNGENERATED)
        self.slots = moshi.slots
        self.caller_text_delay_s = 0.0 if listener is None else listener.delay_s

    def warm_up(self) -> None:
        """Make one step for nobody, so that the first caller does not wait for torch's first-time work."""
        self._graphs.capture()
        self.step(np.zeros((self.slots, FRAME_SAMPLES), np.int16), np.ones(self.slots, np.bool_))

    def reset(self, slot: int, sampling: SamplingOptions, seed: int) -> None:
        """Begin a new conversation in the slot."""
        self._forget(slot)
        with torch.inference_mode():
            self._moshi.reset(slot, _sampling(sampling), seed)

    def begin(self, slot: int, sampling: SamplingOptions, seed: int, beginning: Beginning) -> Iterator[None]:
        """Begin a conversation after a prompt and a past; a past one draws with a fresh seed from here on."""
        self._forget(slot)
        asked, past = beginning.prompt, beginning.past
        history = None if past is None else self._history(past)
        prompt = (yield from self._prepared(asked)) if asked.instructions or asked.voice else None
        greeting = yield from self._greetings.plan(asked.greeting, asked.greeting_audio)
        steps = 0 if history is None else history.steps
        yield from begin(self._moshi, slot, _sampling(sampling), (seed + steps) % 2**63, prompt=prompt, history=history)
        if prompt is not None and not steps:
            self._next_rows[slot] = prompt.prompt.next_row
        if greeting and history is not None and not asked.wait:
            greeting = greeting[steps - find_start(greeting, history.rows.tolist(), steps) :]
        if greeting or asked.wait:
            self._scripts[slot] = Script(greeting, held=asked.wait)
        if history is not None and len(history.rows):
            self._last_text[slot] = int(history.rows[-1, 0])

    def force(self, slot: int, text: str) -> None:
        """Let the slot say ``text`` as soon as it is between two words, and no longer wait.

        Nothing is said of an empty one, and of one with words that the model does not have.
        """
        self._scripts.setdefault(slot, Script()).add(plan_text(text, self._tokenizer))

    def step(self, audio: Samples, mask: NDArray[np.bool_]) -> StepOutput:
        """Advance the masked slots by ``audio``, ``int16 [B, 1920]``; tokens are ``int64 [B, 17]``."""
        heard = torch.from_numpy(audio).to(torch.float32).div_(_FULL_SCALE)[:, None]  # [B, 1, 1920]
        forced, scripted = self._forced(mask)
        step = self._graphs.step(heard, torch.from_numpy(mask), forced)
        said = (step.audio[:, 0] * _FULL_SCALE).round_().clamp_(-_FULL_SCALE, _FULL_SCALE - 1)  # [B, 1920]
        spoken = step.tokens[:, 0].cpu().numpy()  # [B]
        rows = step.row.cpu().numpy()  # [B, 17]
        ready = step.ready.cpu().numpy()  # [B]
        self._last_text = np.where(mask, rows[:, 0], self._last_text)
        text = [
            self._tokenizer.piece(int(token)) if has_spoken else ""
            for token, has_spoken in zip(spoken, ready, strict=True)
        ]
        return StepOutput(said.to(torch.int16).cpu().numpy(), text, rows, scripted, self._caller_text(step.caller))

    def _caller_text(self, tokens: Tensor | None) -> list[str]:
        """What the listener wrote, of its tokens ``[B]``."""
        if tokens is None or self._listener is None:
            return [""] * self.slots
        return [self._listener.tokenizer.piece(token) for token in tokens.tolist()]

    def _forced(self, mask: NDArray[np.bool_]) -> tuple[Tensor | None, NDArray[np.bool_]]:
        """What prompts and scripts put into the next step ``[B, 17]``, and where scripts speak ``[B]``.

        None where all are free.
        """
        speaking = np.zeros(self.slots, np.bool_)
        scripted = [slot for slot in self._scripts if mask[slot]]
        prompted = [slot for slot in self._next_rows if mask[slot]]
        if not scripted and not prompted:
            return None, speaking
        forced = torch.full((self.slots, self._moshi.lm.config.streams), NOT_FORCED)
        for slot in prompted:
            forced[slot] = self._next_rows.pop(slot)
        for slot in scripted:
            row, speaking[slot] = self._scripts[slot].next_row(int(self._last_text[slot]))
            for stream, token in enumerate(row):
                if token != NOT_FORCED:
                    forced[slot, stream] = token
            if self._scripts[slot].idle:
                del self._scripts[slot]
        return forced, speaking

    def _forget(self, slot: int) -> None:
        self._scripts.pop(slot, None)
        self._next_rows.pop(slot, None)
        self._last_text[slot] = UNGENERATED

    def _prepared(self, asked: AgentPrompt) -> Generator[None, None, PreparedPrompt]:
        """The prompt's cache, from before or computed now, a piece of work per item."""
        key = (asked.instructions, asked.voice)
        if (known := self._prompts.get(key)) is None:
            voice = self._persona.read_voice(self._voice_file(asked.voice)) if asked.voice else None
            yield
            built = self._persona.build(asked.instructions, voice)
            known = yield from prepare_prompt(self._moshi, built)
            log.info("model.prompt_cached steps=%d bytes=%d", len(built.rows), known.memory)
            self._prompts[key] = known
            if len(self._prompts) > _PROMPTS_KEPT:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return known

    def _voice_file(self, name: str) -> Path:
        folder = self._voices
        if folder is None:
            raise CheckpointError(f"voice {name!r}: this worker has no voices; set voices to a folder of .wav files")
        for suffix in (".wav", ".pt"):
            if (path := folder / (name + suffix)).is_file():
                return path
        raise CheckpointError(f"voice {name!r}: there is no {name}.wav and no {name}.pt in {folder}")

    def _history(self, past: Past) -> History:
        """Check a past against the model; raises ``ProtocolError``."""
        config, rows = self._moshi.lm.config, torch.from_numpy(past.tokens.astype(np.int64))
        if rows.shape[1:] != (config.streams,):
            raise ProtocolError(f"resume: {rows.shape[1]} tokens in a step; this model has {config.streams}")
        cards = torch.tensor([config.text_card] + [config.card] * config.n_q)
        drawn = rows[:, : 1 + config.dep_q]
        if ((rows > cards) | (rows < UNGENERATED)).any() or (drawn < 0).any():
            raise ProtocolError("resume: there are tokens that this model does not have")
        heard = torch.from_numpy(past.heard.astype(np.float32)).div_(_FULL_SCALE)
        return History(past.steps, rows, heard)


def _sampling(options: SamplingOptions) -> Sampling:
    return Sampling(
        audio_temperature=options.audio_temperature,
        audio_top_k=options.audio_top_k,
        text_temperature=options.text_temperature,
        text_top_k=options.text_top_k,
        pad_bias=options.pad_bias,
        repetition_penalty=options.repetition_penalty,
    )
