"""A record of what a session's model heard and said, to run the same conversation again offline."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from config.audio import FRAME_SAMPLES
from model_runtime.engine.slot import SlotStep
from model_runtime.worker.protocol import TOKENS, Open

MAX_STEPS: Final = 7_500
"""Ten minutes, about 60 MB: the record is kept in memory until it is written."""


class SessionDump:
    """Collects the steps of one session, the first ten minutes of it.

    The file is a numpy archive: ``heard`` and ``said``, int16 [N, 1920]; ``tokens``, int64 [N, K]; ``captured_at``,
    float64 [N]; and ``session``, JSON with ``open`` (seed, sampling, prompt, and the step it began at), ``text`` and
    ``caller_text`` (N pieces each). A resumed one has its past too: ``past_tokens``, int32 [T, K], and ``past_heard``,
    int16 [W, 1920]; and one that was greeted by a recording that: ``greeting_audio``, int16 [n].
    """

    def __init__(self, path: Path, request: Open) -> None:
        self._path = path
        self._request = request
        self._steps: list[SlotStep] = []

    def add(self, step: SlotStep) -> None:
        """Note a step."""
        if len(self._steps) < MAX_STEPS:
            self._steps.append(step)

    def write(self) -> None:
        """Write the file; blocks. A session without a step leaves none."""
        if not self._steps:
            return
        request, resume = self._request, self._request.resume
        given: dict[str, Any] = {}
        if resume is not None:
            given["past_tokens"] = np.frombuffer(resume.tokens, "<i4").reshape(-1, TOKENS)
            given["past_heard"] = np.frombuffer(resume.heard, np.int16).reshape(-1, FRAME_SAMPLES)
        prompt = asdict(request.prompt)
        if recording := prompt.pop("greeting_audio"):
            given["greeting_audio"] = np.frombuffer(recording, np.int16)
        session: dict[str, Any] = {
            "open": {
                "seed": request.seed,
                "sampling": asdict(request.sampling),
                "prompt": prompt,
                "step": 0 if resume is None else resume.step,
            },
            "text": [step.text for step in self._steps],
            "caller_text": [step.caller_text for step in self._steps],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("wb") as file:
            np.savez(
                file,
                heard=np.stack([step.heard.audio for step in self._steps]),
                said=np.stack([step.audio for step in self._steps]),
                tokens=np.stack([step.tokens for step in self._steps]),
                captured_at=np.array([step.heard.captured_at for step in self._steps]),
                session=np.array(json.dumps(session)),
                **given,
            )
