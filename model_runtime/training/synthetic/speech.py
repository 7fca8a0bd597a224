"""Speech with exact word times: espeak-ng, called in its library. One process has one espeak-ng.

The library tells in its events at which sample each word and each phone begins (speak_lib.h). A word's start is that of
its first phone, its end that of its last; against the audio they are right within a few milliseconds, which the tests
measure.
"""

import _ctypes
import ctypes
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from config.audio import SAMPLE_RATE
from model_runtime.errors import LocalModelError
from model_runtime.training.augment import speech_level
from model_runtime.training.recordings import Word
from model_runtime.training.resample import Audio, resample
from model_runtime.training.synthetic.script import World
from model_runtime.training.synthetic.voices import Voice

LIBRARY: Final = "libespeak-ng.so.1"
LEVEL_DB: Final = -24.0
"""Of speech, relative to full scale."""
_SYNCHRONOUS, _PHONE_EVENTS = 2, 1
_LIST_END, _WORD, _END, _MESSAGE_END, _PHONE = 0, 1, 5, 6, 7
_RATE, _PITCH, _RANGE = 1, 3, 4
_UTF8: Final = 1
_CHARACTERS: Final = 1
"""Positions in the text are counted in characters."""


class SpeechError(LocalModelError):
    """espeak-ng is missing, or cannot say something."""


@dataclass(frozen=True, slots=True)
class Speech:
    """Something said."""

    text: str
    audio: Audio
    """``float32 [n]`` at 24 kHz, speech at ``LEVEL_DB``."""
    words: tuple[Word, ...]
    phones: tuple[Word, ...]
    """In espeak-ng's notation, pauses left out."""

    @property
    def end(self) -> float:
        """When the last word ends, in seconds."""
        return self.words[-1].end if self.words else 0.0


class _Event(NamedTuple):
    kind: int
    position: int
    sample: int
    phone: str


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _RawEvent(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_RawEvent))


class _Espeak:
    """The library, made ready."""

    def __init__(self) -> None:
        try:
            self._library: Any = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise SpeechError(f"{LIBRARY} is missing: apt-get install espeak-ng") from error
        self.rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONE_EVENTS)
        if self.rate <= 0:
            raise SpeechError(f"espeak-ng does not start: {self.rate}")
        self._samples: list[Audio] = []
        self._events: list[_Event] = []
        self._callback = _Callback(self._take)  # kept: the library only points at it
        self._library.espeak_SetSynthCallback(self._callback)

    def close(self) -> None:
        """Let the library go, so that the next one is loaded as new."""
        self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            block = np.ctypeslib.as_array(samples, (count,))
            self._samples.append(block.astype(np.float32) / np.float32(32768))
        i = 0
        while events[i].type not in (_LIST_END, _MESSAGE_END):
            event = events[i]
            phone = event.id.string.decode(errors="replace") if event.type == _PHONE else ""
            self._events.append(_Event(event.type, event.text_position - 1, event.sample, phone))
            i += 1
        return 0

    def say(self, text: str, voice: Voice) -> tuple[Audio, list[_Event]]:
        """What the library makes of a text, at its own rate."""
        self._samples.clear()
        self._events.clear()
        if self._library.espeak_SetVoiceByName(voice.name.encode()):
            raise SpeechError(f"espeak-ng has no voice {voice.name}")
        for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode() + b"\0"
        error = self._library.espeak_Synth(data, len(data), 0, _CHARACTERS, 0, _UTF8, None, None)
        if error or not self._samples:
            raise SpeechError(f"espeak-ng cannot say {text!r}: {error}")
        return np.concatenate(self._samples), list(self._events)


_loaded: list[_Espeak] = []


def _espeak() -> _Espeak:
    if not _loaded:
        _loaded.append(_Espeak())
    return _loaded[0]


def begin_anew() -> None:
    """Let espeak-ng forget all that it has said (about 10 ms).

    The phase, flutter and noise of a voice go on from one text to the next, and the library has no way to reset them;
    so it is loaded again. What is said from here on is the same, in any process, whatever was said before.
    """
    if _loaded:
        _loaded.pop().close()
    ctypes.CDLL(None).srand(1)


def speak(text: str, voice: Voice) -> Speech:
    """Say ``text``; raises ``SpeechError``.

    It sounds a little different after other texts; ``begin_anew`` says how to have it again. Every word that is split
    from the text by white space has its time, also where espeak-ng runs several together.
    """
    text = " ".join(text.split())
    raw, events = _espeak().say(text, voice)
    rate = _espeak().rate * voice.warp
    audio = _coloured(resample(raw, rate, SAMPLE_RATE), voice)
    level = speech_level(audio)
    if level:
        audio = audio * np.float32(10 ** (LEVEL_DB / 20) / level)
    phones = _phones(events, len(raw))
    words = _words(text, events, phones)
    in_time = tuple(Word(word.text, word.start / rate, word.end / rate) for word in words)
    return Speech(text, audio, in_time, tuple(Word(p.text, p.start / rate, p.end / rate) for p in phones if _sounds(p)))


def _sounds(phone: Word) -> bool:
    return not phone.text.startswith(("_", ";")) and phone.end > phone.start


def _phones(events: list[_Event], end: int) -> list[Word]:
    """All phones, pauses too, in samples: each lasts until the next phone, word or end."""
    phones: list[Word] = []
    for event, after in zip(events, [*events[1:], _Event(_END, 0, end, "")], strict=True):
        if event.kind == _PHONE and event.phone:
            phones.append(Word(event.phone, event.sample, max(event.sample, after.sample)))
    return phones


def _words(text: str, events: list[_Event], phones: list[Word]) -> list[Word]:
    """Each word of the text in samples."""
    tokens: list[tuple[int, str]] = []
    at = 0
    for token in text.split():
        at = text.index(token, at)
        tokens.append((at, token))
        at += len(token)
    starts: dict[int, int] = {}  # token: sample at which its WORD event is
    for event in events:
        if event.kind == _WORD:
            index = max((i for i, (where, _) in enumerate(tokens) if where <= event.position), default=0)
            starts.setdefault(index, event.sample)
    order = sorted(starts.items())
    words: list[Word] = []
    for (index, start), (following, limit) in zip(order, [*order[1:], (len(tokens), 1 << 62)], strict=True):
        sounding = [p for p in phones if start <= p.start < limit and _sounds(p)]
        first = sounding[0].start if sounding else float(start)
        last = sounding[-1].end if sounding else float(start)
        words += _share(first, last, [token for _, token in tokens[index:following]])
    return words


def _share(start: float, end: float, tokens: list[str]) -> list[Word]:
    """Words that are run together, each with a share of the time in proportion to its letters."""
    letters = sum(len(token) for token in tokens)
    shared: list[Word] = []
    for token in tokens:
        until = start + (end - start) * len(token) / letters
        letters -= len(token)
        shared.append(Word(token, start, until))
        start = until
    return shared


def _coloured(audio: Audio, voice: Voice) -> Audio:
    """``audio`` through a voice's tilt and resonance, without delay."""
    if not voice.tilt_db and not voice.peak_db:
        return audio
    size = -(-(len(audio) + SAMPLE_RATE // 20) // 1024) * 1024
    hz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 50)
    octaves = np.clip(np.log2(hz / 1000), -2, 2)
    peak = np.exp(-(np.log2(hz / voice.peak_hz) ** 2) / 0.5)
    gain = 10 ** ((voice.tilt_db * octaves / 4 + voice.peak_db * peak) / 20)
    spectrum = torch.fft.rfft(torch.from_numpy(audio), size) * torch.from_numpy(gain.astype(np.float32))
    coloured: Audio = torch.fft.irfft(spectrum, size).numpy()[: len(audio)]
    return coloured


def agent_speech(world: World) -> dict[str, Speech]:
    """All that the agent of a world says, each sentence always the same."""
    spoken: dict[str, Speech] = {}
    for text in world.agent_texts:
        begin_anew()
        spoken[text] = speak(text, world.agent)
    return spoken


def phone_labels(phones: tuple[Word, ...], frames: int, frame_s: float) -> list[str]:
    """The phone in the middle of each of so many frames, ``_`` where there is none: labels for a codec's semantics."""
    labels = ["_"] * frames
    for phone in phones:
        for frame in range(max(0, round(phone.start / frame_s)), min(frames, round(phone.end / frame_s))):
            labels[frame] = phone.text
    return labels
