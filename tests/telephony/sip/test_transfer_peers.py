"""Transfers, redirections and keys with phones that others have written, across edge and line workers."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from config.audio import FRAME_SAMPLES
from telephony.end_cause import EndCause
from telephony.sip.line.call import SipCall
from telephony.transfer import Transfer
from tests.peers.audio import tone, write_wav
from tests.peers.baresip import baresip
from tests.peers.sipp import sipp
from tests.telephony.sip.line.direct import soon, until
from tests.telephony.sip.lines import Lines, lines

TARGET = "sip:desk@192.0.2.9:5070"


class _Transferrer:
    """Answers each call and transfers it at once."""

    def __init__(self, target: str = TARGET, within_s: float = 5.0) -> None:
        self.tasks: list[asyncio.Task[Transfer]] = []
        self.target = target
        self._within_s = within_s

    def __call__(self, call: SipCall) -> None:
        call.answer()
        self.tasks.append(asyncio.create_task(self._transfer(call), name="transfer"))

    async def _transfer(self, call: SipCall) -> Transfer:
        assert await call.wait_confirmed()
        return await call.transfer(self.target, within_s=self._within_s)


async def _all_free(running: Lines) -> None:
    await until(lambda: all(worker.free_lines == worker.capacity for worker in running.pool.workers))
    await until(lambda: running.edge.active_calls == 0)


@pytest.mark.peer("sipp")
@pytest.mark.parametrize(
    ("scenario", "outcome", "cause"),
    [
        ("refer_accepted", Transfer(True, 200, "OK"), EndCause.transferred()),
        ("refer_refused", Transfer(False, 603, "Decline"), EndCause.peer_hung_up()),
        ("refer_busy", Transfer(False, 486, "Busy Here"), EndCause.peer_hung_up()),
        ("refer_silent", Transfer(False, 408, "no outcome in time"), EndCause.peer_hung_up()),
    ],
)
async def test_sipp_is_transferred(scenario: str, outcome: Transfer, cause: EndCause) -> None:
    """What the peer and the target say is the outcome; but for an answered transfer the call goes on."""
    transferrer = _Transferrer(within_s=0.8 if scenario == "refer_silent" else 5.0)
    async with lines(transferrer) as running:
        result = await sipp(scenario, running.port, calls=3, rate=5)
        assert [await soon(task) for task in transferrer.tasks] == [outcome] * 3
        assert [await soon(call.wait_closed()) for call in running.calls] == [cause] * 3
        assert f"Refer-To: <{TARGET}>" in result.messages
        assert "Referred-By" not in result.messages
        await _all_free(running)


@pytest.mark.peer("sipp")
async def test_sipp_sends_a_stray_notify() -> None:
    """In a call that was never transferred it is refused (481), and the call goes on."""
    async with lines(SipCall.answer) as running:
        await sipp("stray_notify", running.port)
        assert await soon(running.calls[0].wait_closed()) == EndCause.peer_hung_up()
        await _all_free(running)


@pytest.mark.peer("sipp")
async def test_sipp_is_redirected() -> None:
    """A call may be turned away to another address before its answer."""
    cause = EndCause.redirected(TARGET)
    async with lines(lambda call: call.hangup(cause) and None) as running:
        result = await sipp("redirected", running.port)
        redirection = next(part for part in result.messages.split("SIP/2.0 ") if part.startswith("302"))
        contacts = [line for line in redirection.splitlines() if line.startswith("Contact:")]
        assert contacts == [f"Contact: <{TARGET}>"]
        assert await soon(running.calls[0].wait_closed()) == cause
        await _all_free(running)


@pytest.mark.peer("baresip")
@pytest.mark.parametrize("codec", ["PCMU", "G722"])
async def test_keys_pressed_at_baresip_are_heard(tmp_path: Path, codec: str) -> None:
    """Each key is told once and in order (RFC 4733), the first one too, which may come before our 200 has its ACK."""
    pressed: list[str] = []

    def take(call: SipCall) -> None:
        call.on_dtmf = pressed.append
        call.answer()

    rate = {"PCMU": 8_000, "G722": 16_000}[codec]
    play = write_wav(tmp_path / "tone.wav", tone(1_000, -20, 20.0, rate), rate)
    async with lines(take) as running, baresip(play, codec) as phone:
        await phone.dial(f"sip:keys@127.0.0.1:{running.port}")
        await phone.command("sndcode", "4930*0#11")
        await until(lambda: "".join(pressed) == "4930*0#11", 8)
        await phone.hangup()
        await soon(running.calls[0].wait_closed())


@pytest.mark.peer("baresip")
async def test_baresip_hears_the_keys_we_press(tmp_path: Path) -> None:
    """Keys that the agent presses reach a phone as events."""
    play = write_wav(tmp_path / "tone.wav", tone(1_000, -20, 20.0, 8_000), 8_000)
    async with lines(SipCall.answer) as running, baresip(play) as phone:
        await phone.dial(f"sip:keys@127.0.0.1:{running.port}")
        await until(lambda: running.calls[0].rtp_source)
        running.calls[0].send_dtmf("17#")
        keys = ""
        while keys != "17#":
            event = await phone.wait_event("CALL_DTMF_START")
            keys += str(event["param"])
        await phone.hangup()
        await soon(running.calls[0].wait_closed())


@pytest.mark.peer("baresip")
async def test_baresip_follows_a_transfer(tmp_path: Path) -> None:
    """A phone is asked to call another one; when that answers, our call ends and theirs goes on."""
    play = write_wav(tmp_path / "tone.wav", tone(1_000, -20, 30.0, 8_000), 8_000)
    async with baresip(play) as desk, baresip(play) as phone:
        transferrer = _Transferrer(f"sip:caller@127.0.0.1:{desk.sip_port}", within_s=10)
        async with lines(transferrer) as running:
            await phone.dial(f"sip:agent@127.0.0.1:{running.port}")
            await desk.answer()
            outcome = await soon(transferrer.tasks[0], 10)
            assert outcome.accepted
            assert outcome.status == 200
            assert await soon(running.calls[0].wait_closed()) == EndCause.transferred()
            await _all_free(running)
            await desk.hangup()


@pytest.mark.peer("baresip")
async def test_audio_is_played_without_a_model(tmp_path: Path) -> None:
    """Music may be played at real-time pace while nobody listens to the caller."""
    music = tone(500, -10, 8.0, 24_000)
    playing: list[asyncio.Task[None]] = []

    async def play_to(call: SipCall) -> None:
        assert await call.wait_confirmed()
        begin = asyncio.get_running_loop().time()
        for number, at in enumerate(range(0, music.size - FRAME_SAMPLES, FRAME_SAMPLES)):
            if call.play(music[at : at + FRAME_SAMPLES]) < 0:
                return
            await asyncio.sleep(max(0.0, begin + 0.08 * (number + 1) - asyncio.get_running_loop().time()))

    def take(call: SipCall) -> None:
        call.answer()
        playing.append(asyncio.create_task(play_to(call), name="music"))

    wav = write_wav(tmp_path / "tone.wav", tone(1_000, -20, 20.0, 8_000), 8_000)
    async with lines(take) as running, baresip(wav) as phone:
        await phone.dial(f"sip:music@127.0.0.1:{running.port}")
        await asyncio.sleep(2.0)
        await phone.hangup()
        await soon(running.calls[0].wait_closed())
        await soon(playing[0])
        heard = phone.recording()
        assert np.abs(heard[8_000:12_000].astype(int)).max() > 8_000
        assert running.calls[0].stats is not None
        assert running.calls[0].stats.trimmed == 0
