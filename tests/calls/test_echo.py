"""The line test as a phone hears it: baresip calls the echo agent, and what comes back is measured."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from tests.peers import audio
from tests.peers.audio import Samples
from tests.peers.baresip import RATES, baresip
from tests.peers.denwa import denwa

pytestmark = [pytest.mark.peer("baresip"), pytest.mark.asyncio(loop_scope="module")]

CODECS = list(RATES)
LEVEL = -10.0  # dBFS
TONE_HZ = 1_000
TONE_S, PAUSE_S, SWEEP_S = 3.0, 0.5, 2.0
SWEEPS = 3


@dataclass(frozen=True)
class Heard:
    """What one call sent and got back."""

    rate: int
    sent: Samples
    recorded: Samples

    def part(self, first_s: float, last_s: float) -> tuple[Samples, Samples]:
        """A stretch of what was sent, and what came back of it."""
        delay = audio.lag(self.sent, self.recorded)
        first, last = round(first_s * self.rate), round(last_s * self.rate)
        return self.sent[first:last], self.recorded[first + delay : last + delay]


def _program(rate: int) -> Samples:
    pause = np.zeros(round(PAUSE_S * rate), np.int16)
    tone = audio.tone(TONE_HZ, LEVEL, TONE_S, rate)
    sweep = audio.sweep(250, 3_600, LEVEL, SWEEP_S, rate)
    return np.concatenate([pause, pause, tone, pause, *[sweep, pause] * SWEEPS, *[pause] * 8])


async def _call(codec: str, port: int, folder: Path) -> Heard:
    rate = RATES[codec]
    sent = _program(rate)
    wav = audio.write_wav(folder / f"{codec}.wav", sent, rate)
    async with baresip(wav, codec) as phone:
        await phone.dial(f"sip:echo@127.0.0.1:{port}")
        await asyncio.sleep(3 * PAUSE_S + TONE_S + SWEEPS * (SWEEP_S + PAUSE_S) + 1)
        await phone.hangup()
        await phone.wait_event("CALL_CLOSED")
        return Heard(rate, sent, phone.recording())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Heard]:
    """One call in each codec, all at the same time."""
    folder = tmp_path_factory.mktemp("echo")
    async with denwa(folder) as gateway:
        heard = await asyncio.gather(*[_call(codec, gateway.sip_port, folder) for codec in CODECS])
    return dict(zip(CODECS, heard, strict=True))


@pytest.mark.parametrize(("codec", "least_snr"), [("PCMU", 35.0), ("PCMA", 35.0), ("G722", 40.0)])
async def test_a_tone_comes_back_as_it_was(calls: dict[str, Heard], codec: str, least_snr: float) -> None:
    """1 kHz at -10 dBFS returns within 0.3 dB, and nearly nothing else with it."""
    begin = 2 * PAUSE_S
    sent, recorded = calls[codec].part(begin + 0.2, begin + TONE_S - 0.2)
    went = audio.cleanest_tone(sent, calls[codec].rate, TONE_HZ)
    came = audio.cleanest_tone(recorded, calls[codec].rate, TONE_HZ)
    assert abs(came.level - went.level) <= 0.3, came
    assert came.snr >= least_snr, came


@pytest.mark.parametrize("codec", CODECS)
async def test_the_telephone_band_comes_back_flat(calls: dict[str, Heard], codec: str) -> None:
    """A sweep returns within 0.7 dB from 300 to 3400 Hz; of three, the one least disturbed by this machine counts."""
    ripples = []
    for number in range(SWEEPS):
        begin = 3 * PAUSE_S + TONE_S + number * (SWEEP_S + PAUSE_S)
        sent, recorded = calls[codec].part(begin, begin + SWEEP_S)
        gains = audio.response(sent, recorded, calls[codec].rate, [float(edge) for edge in range(300, 3_401, 100)])
        ripples.append(max(map(abs, gains)))
    assert min(ripples) <= 0.7, ripples
