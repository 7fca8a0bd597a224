"""The ``random:tiny`` and ``random:stt`` checkpoints: the true architecture at small width, with seeded random weights.

For tests, line checks and machines without a model. It understands nothing, but everything an operator can hear and
see is there: it hums at a polite level, its hum depends on the tokens it draws, and now and then it says a word. The
listener beside it writes words that depend on what it hears.
Runs wherever it is called; owns nothing.
"""

from math import sqrt
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from config.audio import FRAME_SAMPLES
from model_runtime.checkpoint.config import LanguageModelConfig, MimiConfig, SeanetConfig
from model_runtime.lm.language_model import LanguageModel
from model_runtime.mimi.codec import Mimi
from model_runtime.moshi import Moshi
from model_runtime.text import PAD, TextTokenizer

TINY_MIMI: Final = MimiConfig(
    seanet=SeanetConfig(dimension=64, n_filters=8),
    num_heads=4,
    num_layers=2,
    dim_feedforward=128,
    codebook_dim=32,
    bins=256,
    n_q=8,
)
TINY_LM: Final = LanguageModelConfig(
    dim=128,
    num_heads=4,
    num_layers=3,
    context=250,
    text_card=320,
    card=256,
    depformer_dim=64,
    depformer_num_heads=4,
    depformer_num_layers=2,
    depformer_dim_feedforward=264,
)
TINY_STT: Final = LanguageModelConfig(
    dim=64,
    num_heads=4,
    num_layers=2,
    context=125,
    max_period=100_000.0,
    text_card=320,
    card=256,
    n_q=8,
    dep_q=0,
    delays=(0,) * 9,
)
STT_DELAY_S: Final = 0.5
"""By so much a listener's text is said to lag its audio, as that of Kyutai's 1B."""
TOKENIZER: Final = Path(__file__).parent / "embedded" / "tiny_tokenizer.model"

_LEVEL: Final = 10 ** (-21.5 / 20)
"""RMS of the hum: -21.5 dBFS."""
_PAD_LOGIT: Final = 6.8
_LISTENER_PAD_LOGIT: Final = 6.0
_TEXT_SPREAD: Final = 4.0
_CODE_SPREAD: Final = 2.0
_CALLER: Final = 0.4
"""Weight of the caller's codes: a silent caller's are constant, and should not decide how much is said."""


def tiny_moshi(slots: int, seed: int = 1) -> tuple[Moshi, TextTokenizer]:
    """The tiny model over ``slots`` conversations, and its tokenizer; the same seed gives the same weights."""
    mimi, lm = tiny_mimi(seed), tiny_language_model(seed)
    return Moshi(mimi, lm, slots), TextTokenizer(TOKENIZER)


@torch.no_grad()
def tiny_mimi(seed: int = 1) -> Mimi:
    """A codec whose codes follow its input and whose voice lies below 3.4 kHz, so that it survives G.711."""
    random = torch.Generator().manual_seed(seed)
    mimi = Mimi(TINY_MIMI).eval().requires_grad_(False)
    _fill(mimi, random)
    _smooth(mimi)
    _spread_codebooks(mimi, random)
    _set_level(mimi, random)
    return mimi


@torch.no_grad()
def tiny_language_model(seed: int = 1) -> LanguageModel:
    """A language model that pads in about seven of ten frames and draws word pieces in the others."""
    random = torch.Generator().manual_seed(seed + 1)
    lm = LanguageModel(TINY_LM).eval().requires_grad_(False)
    _fill(lm, random)
    for name, parameter in lm.named_parameters():
        if name.startswith("emb.") and int(name.split(".")[1]) >= TINY_LM.dep_q:
            parameter.mul_(_CALLER)
        elif name.startswith("linears."):
            parameter.mul_(_CODE_SPREAD)
    _set_padding(lm, _PAD_LOGIT)
    return lm


@torch.no_grad()
def tiny_listener(seed: int = 1) -> LanguageModel:
    """A speech-to-text model that pads in most frames and writes word pieces in the others, by what it hears."""
    random = torch.Generator().manual_seed(seed + 2)
    lm = LanguageModel(TINY_STT).eval().requires_grad_(False)
    _fill(lm, random)
    _set_padding(lm, _LISTENER_PAD_LOGIT)
    return lm


def _set_padding(lm: LanguageModel, logit: float) -> None:
    """Let PAD have this logit, times a constant, and the other marks none to speak of."""
    # Channel 0 of the residual stream is a constant that no layer touches: the bias the architecture does not have.
    for name, parameter in lm.named_parameters():
        if name.startswith(("text_emb.", "emb.")):
            parameter[:, 0] = 4.0 if name.startswith("text_emb.") else 0.0
        elif name.startswith("transformer.") and name.endswith(("out_proj.weight", "linear_out.weight")):
            parameter[0] = 0
    rows = lm.text_linear.weight
    rows *= _TEXT_SPREAD
    rows[: PAD + 1] = 0
    rows[:, 0] = 0
    rows[:PAD, 0] = -8.0  # EPAD, BOS and EOS: as good as never
    rows[PAD, 0] = logit


def _fill(module: nn.Module, random: torch.Generator) -> None:
    """Draw every matrix and kernel at a scale that keeps unit variance; gains 1, layer scales 0.3, biases 0."""
    for name, parameter in module.named_parameters():
        if name.endswith("scale"):
            parameter.fill_(0.3)
        elif "norm" in name:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        elif parameter.dim() == 1:
            parameter.zero_()
        else:
            parameter.normal_(generator=random).mul_(_gain(name, parameter))


def _gain(name: str, parameter: Tensor) -> float:
    if "emb" in name:
        return 0.5
    if "convtr" in name:
        return sqrt(2 / parameter.shape[0])  # a kernel of twice the stride: two taps meet in each sample
    return 1 / sqrt(parameter[0].numel())


def _smooth(mimi: Mimi) -> None:
    """Make the last, fourfold, upsampling and all that follows it low-pass kernels, mixing channels at random."""
    interpolating = torch.tensor([1.0, 3, 5, 7, 7, 5, 3, 1]) / 8
    averaging = torch.tensor([0.25, 0.5, 0.25])
    weights = dict(mimi.decoder.named_parameters())
    for name, window in (
        ("model.11.convtr.convtr.weight", interpolating),
        ("model.12.block.1.conv.conv.weight", averaging),
        ("model.14.conv.conv.weight", averaging),
    ):
        weights[name].copy_(weights[name][..., :1] * window * sqrt(len(window)))


def _spread_codebooks(mimi: Mimi, random: torch.Generator) -> None:
    """Give each codebook centroids distributed as what it will be asked to code."""
    loudness = torch.logspace(-3, -0.5, 8).view(-1, 1, 1)
    audio = torch.randn(8, 1, 12 * FRAME_SAMPLES, generator=random) * loudness
    latent = mimi.encoder_transformer(mimi.encoder(audio))
    latent = mimi.downsample.conv(latent)
    for chain in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
        rest = chain.input_proj(latent).transpose(1, 2).flatten(0, 1)  # [N, dim]
        for codebook in chain.codebooks:
            drawn = torch.randn(codebook.embedding_sum.shape, generator=random)
            codebook.embedding_sum.copy_(rest.mean(0) + rest.std(0) * drawn)
            codebook.refresh()
            rest = rest - codebook.centroids[codebook.nearest(rest)]


def _set_level(mimi: Mimi, random: torch.Generator) -> None:
    """Scale the last convolution to the wanted level and take away the mean, measured on random codes."""
    weights = dict(mimi.decoder.named_parameters())
    codes = torch.randint(TINY_MIMI.bins, (4, mimi.codebooks, 25), generator=random)
    audio = mimi.decode(codes)[..., FRAME_SAMPLES:]
    gain = _LEVEL / audio.std()
    weights["model.14.conv.conv.weight"].mul_(gain)
    weights["model.14.conv.conv.bias"].sub_(audio.mean() * gain)
