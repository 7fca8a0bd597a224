import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model_runtime.errors import CheckpointError
from model_runtime.lm.delays import NOT_FORCED
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.moshi import Moshi
from model_runtime.prompts import PersonaPrompts, Prompt, Voice, from_frames
from model_runtime.resume import begin
from model_runtime.sampling import GREEDY
from model_runtime.text import PAD, TextTokenizer
from model_runtime.tiny import TOKENIZER, tiny_language_model, tiny_mimi
from tests.model_runtime.test_resume import prepared_prompt

FRAMES = 9
FURTHER = 25


def personaplex(lm: LanguageModel, prompt: Tensor, user: Tensor) -> Tensor:
    """Columns ``[T, 9]`` that NVIDIA's procedure draws, greedily, after the frames of a prompt ``[F, 17]``.

    An independent telling of it (reference/moshi.md, section 8): a cache by position, a note of what was provided, and
    each call running the model on the position before the frame it was given.
    """
    config = lm.config
    state, mask = lm.new_state(1), torch.tensor([True])
    cache: dict[tuple[int, int], int] = {}
    provided: set[tuple[int, int]] = set()
    initial = [config.text_initial] + [config.audio_initial] * config.n_q
    drawn = []
    for n in range(len(prompt) + len(user)):
        told = prompt[n].tolist() if n < len(prompt) else [None] * 9 + user[n - len(prompt)].tolist()
        for stream, (token, delay) in enumerate(zip(told, config.delays, strict=True)):
            if token is not None:
                cache[stream, n + delay] = token
                provided.add((stream, n + delay))
            if n <= delay:
                cache[stream, n] = initial[stream]
                provided.add((stream, n))
        if n == 0:
            for stream in range(17):
                cache[stream, 0] = initial[stream]
            continue

        def pick(stream: int, logits: Tensor, n: int = n) -> Tensor:
            if (stream, n) not in provided:
                cache[stream, n] = int(logits.argmax())
            return torch.tensor([cache[stream, n]])

        column = torch.tensor([[cache[stream, n - 1] for stream in range(17)]])
        hidden, logits = lm.step(column, state, mask)
        text = pick(0, logits)
        lm.generate_codes(hidden, text, lambda k, logits, pick=pick: pick(1 + k, logits))
        if n >= len(prompt):
            drawn.append([cache[stream, n] for stream in range(9)])
    return torch.tensor(drawn)


def go_on(moshi: Moshi, prompt: Prompt, user: Tensor) -> Tensor:
    """The rows ``[1 + T, 9]`` that we draw after a prompt: in its last step, then for each frame of the user."""
    for _ in begin(moshi, 0, GREEDY, 0, prompt=prepared_prompt(moshi, prompt)):
        pass
    free = torch.full((len(user), 17), NOT_FORCED)
    free[:, 9:] = user
    mask, silence = torch.tensor([True]), torch.zeros(1, 1, 1920)
    rows = [moshi.step(silence, mask, row[None]).row for row in [prompt.next_row, *free]]
    return torch.cat(rows)[:, :9]


@pytest.fixture
def moshi(small_mimi: Mimi, small_lm: LanguageModel) -> Moshi:
    """One slot of the small model."""
    return Moshi(small_mimi, small_lm, 1)


@pytest.fixture
def conversation() -> tuple[Tensor, Tensor]:
    """A prompt's frames ``[F, 17]`` and the user's codes ``[T, 8]`` that follow."""
    random = torch.Generator().manual_seed(8)
    return torch.randint(50, (FRAMES, 17), generator=random), torch.randint(64, (FURTHER, 8), generator=random)


@torch.inference_mode()
def test_a_prompt_is_personaplexs(moshi: Moshi, conversation: tuple[Tensor, Tensor]) -> None:
    """After a prompt the same tokens are drawn as by NVIDIA's procedure, a frame earlier each."""
    frames, user = conversation
    theirs = personaplex(moshi.lm, frames, user)
    ours = go_on(moshi, from_frames(frames, moshi.lm.config), user)
    assert torch.equal(ours[: len(theirs)], theirs)
    assert len(theirs.unique()) > 30


@torch.inference_mode()
def test_a_published_voice_is_its_frames(
    moshi: Moshi, conversation: tuple[Tensor, Tensor], tmp_path: Path, tiny: PersonaPrompts
) -> None:
    """A voice file of embeddings and a token cache leaves the model as the frames that it was made of do."""
    frames, user = conversation
    config, before = moshi.lm.config, 5
    columns = moshi.grid.read_columns(from_frames(frames[: before + 1], config).rows, 0)
    embeddings = moshi.lm.embed(columns, moshi.lm.new_state(1), 0)
    cache = torch.full((1, 17, 4), -2)
    for stream, delay in enumerate(config.delays):
        for n in range(before + 1):
            cache[0, stream, (n + delay) % 4] = frames[n, stream]
    path = tmp_path / "NATF0.pt"
    torch.save({"embeddings": embeddings[:, None, None], "cache": cache}, path)

    persona = PersonaPrompts(config, moshi.mimi, TextTokenizer(TOKENIZER))
    voice = persona.read_voice(path)
    assert voice.embeddings is not None
    joined = torch.cat([voice.frames, frames[before + 1 :]])
    expected = go_on(moshi, from_frames(frames, config), user)
    assert torch.equal(go_on(moshi, from_frames(joined, config, voice.embeddings), user), expected)
    with pytest.raises(CheckpointError, match="no voice of this model"):
        tiny.read_voice(path)


@pytest.fixture(scope="module")
def tiny() -> PersonaPrompts:
    """Prompts for the tiny model."""
    lm = tiny_language_model()
    return PersonaPrompts(lm.config, tiny_mimi(), TextTokenizer(TOKENIZER))


def test_the_system_prompt(tiny: PersonaPrompts) -> None:
    """Voice, half a second of silence, the tagged text, half a second of silence; a sine on the user's side."""
    tokenizer = TextTokenizer(TOKENIZER)
    text = tokenizer.encode("<system> You enjoy tea. <system>")
    voice = Voice(torch.arange(3 * 8).view(3, 8))
    prompt = tiny.build("You enjoy tea.", voice)
    count = 3 + 6 + len(text) + 6
    rows = torch.cat([prompt.rows, prompt.next_row[None]])
    assert len(rows) == count
    assert rows[:, 0].tolist() == [PAD] * 8 + text + [PAD] * 6 + [NOT_FORCED]
    assert rows[:2, 1].tolist() == voice.frames[1:, 0].tolist(), "the semantic code of the next frame"
    assert rows[:3, 2:9].tolist() == voice.frames[:, 1:].tolist(), "the acoustic codes of this frame"
    assert len(rows[:, 9:].unique(dim=0)) == 1
    assert len(rows[4:, 2:9].unique(dim=0)) == 1
    assert rows[-1, 1] == NOT_FORCED
    assert (rows[-1, 2:] >= 0).all()


def test_a_prompt_may_take_half_of_what_is_remembered(tiny: PersonaPrompts) -> None:
    """A prompt that leaves too little is refused with the lengths."""
    with pytest.raises(CheckpointError, match=r"takes \d+ steps; the model remembers 250"):
        tiny.build("one two three four five six seven eight nine ten " * 20, None)


def write_wav(path: Path, samples: np.ndarray, rate: int = 24_000) -> Path:
    """Write ``[n, channels]``, -1 .. 1."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32_767).astype("<i2").tobytes())
    return path


def test_a_voice_sample_is_what_the_codec_hears(tiny: PersonaPrompts, tmp_path: Path) -> None:
    """A WAV gives a code row for each begun frame, the same whatever its level."""
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, (24_000, 1))
    loud = tiny.read_voice(write_wav(tmp_path / "loud.wav", np.repeat(noise, 2, 1)))
    quiet = tiny.read_voice(write_wav(tmp_path / "quiet.wav", noise / 4))
    assert loud.frames.shape == (13, 8)
    assert (loud.frames == quiet.frames).float().mean() > 0.9  # 16 bits round the quiet one otherwise


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"RIFF", "no WAV file"), (None, "8000 Hz with 16 bits; a voice sample has 24000 Hz and 16 bits")],
)
def test_a_voice_that_cannot_be_read(tiny: PersonaPrompts, tmp_path: Path, content: bytes | None, message: str) -> None:
    """Another format is named, with the command that makes the right one."""
    path = tmp_path / "voice.wav"
    path.write_bytes(content) if content else write_wav(path, np.zeros((100, 1)), 8_000)
    with pytest.raises(CheckpointError, match=message):
        tiny.read_voice(path)
