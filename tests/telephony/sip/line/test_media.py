import asyncio
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.peers import g711, rtp
from tests.peers.audio import tone
from tests.telephony.sip.line.direct import DirectPool, calling, until


def _in_child(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: PJSIP aborts the process it does not like."""
    root = Path(__file__).parents[4]
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=20, check=False
    )


def test_the_vector_layout_is_proved_at_start() -> None:
    """The ByteVector of this build is laid out as frames.py reads it."""
    done = _in_child("from telephony.sip.line.frames import check_layout; check_layout()")
    assert (done.returncode, done.stderr) == (0, "")


def test_another_vector_layout_is_told_clearly() -> None:
    """A build laid out otherwise is refused in words before any call, and no pointer is followed."""
    done = _in_child(
        "from telephony.sip.line import frames; frames._POINTER = 4; frames.check_layout()"  # as on a 32-bit machine
    )
    assert done.returncode == 1
    assert "not laid out as expected" in done.stderr


def test_samples_survive_the_way_through_a_frame() -> None:
    """What is written into a frame is read out of it; a frame without audio is empty."""
    done = _in_child(
        "import pjsua2 as pj\n"
        "from telephony.sip.line.frames import FrameBuffer, read_frame\n"
        "frame = pj.MediaFrame()\n"
        "frame.type = pj.PJMEDIA_FRAME_TYPE_NONE\n"
        "assert read_frame(frame) == b''\n"
        "buffer = FrameBuffer(320)\n"
        "for pcm in (bytes(range(160)) * 2, bytes(320)):\n"
        "    buffer.write(frame, pcm)\n"
        "    assert read_frame(frame) == pcm\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_exception_leaves_a_callback() -> None:
    """A fault in a callback is reported; in C++ it would be an abort."""
    done = _in_child(
        "from telephony.sip.line.guard import guarded\n"
        "class Port:\n"
        "    def report(self, fault): print(fault)\n"
        "    @guarded\n"
        "    def onFrameReceived(self, frame): raise KeyError('lost')\n"
        "Port().onFrameReceived(None)\n"
    )
    assert done.returncode == 0
    assert "onFrameReceived" in done.stdout
    assert "KeyError: 'lost'" in done.stdout


async def test_a_block_that_leaves_at_a_tick_is_heard_at_the_next() -> None:
    """Ear of 80 ms and mouth of 20 ms together: an echo takes framing, jitter buffer and a tick, at every phase."""
    quiet, loud = (g711.encode(tone(1_000, level, rtp.PACKET_S, 8_000), 0) for level in (-60, -6))
    async with DirectPool() as pool, calling(pool, tone(1_000, -60, 1.0, 8_000)) as (caller, _):
        next(task for task in asyncio.all_tasks() if task.get_name() == "speak").cancel()
        loop = asyncio.get_running_loop()
        started = loop.time()
        sent_at = []
        for number in range(150):
            await asyncio.sleep(max(0.0, started + number * rtp.PACKET_S - loop.time()))
            click = number % 25 == 24  # 25 packets: each phase against the blocks of four in turn
            if click:
                sent_at.append(time.monotonic())
            packet = rtp.build(0, 30_000 + number, number * 160, 77, loud if click else quiet)
            caller._rtp.sendto(packet, caller.rtp_peer)
        await until(lambda: caller.heard[-1].at > sent_at[-1] + 0.3)
    loudest = [(packet.at, np.abs(rtp.samples([packet]).astype(int)).max()) for packet in caller.heard]
    echoes_ms = [1e3 * next(at - sent for at, peak in loudest if at > sent and peak > 8_000) for sent in sent_at[1:]]
    assert max(echoes_ms) - min(echoes_ms) < 30
    assert 80 < np.median(echoes_ms) <= 130


_LOOP = """
import time
import numpy as np, pjsua2 as pj
from telephony.sip.line.endpoint import create_endpoint, handle_events, open_endpoint
from telephony.sip.line.media import Line

endpoint = create_endpoint()
open_endpoint(endpoint, 8_000, ["PCMU"], pj.PJSIP_TRANSPORT_UDP, "127.0.0.1")
heard, faults = [], []
line = Line(8_000, lambda audio: heard.append(audio) or len(heard) % 3 != 0, faults.append)
line.take()
line.mouth.startTransmit(line.ear)
stream = np.random.default_rng(0).integers(-9_000, 9_000, 64_000).astype(np.int16)
began = time.monotonic()
time.sleep(0.2)
line.open(7)
for number in range(20):
    line.mouth.push(stream[640 * number : 640 * (number + 1)].tobytes(), 640 * number)
    time.sleep(max(0.0, began + 0.3 + 0.08 * number - time.monotonic()))
    handle_events(endpoint)
line.leave()
dropped = line.ear.dropped
line.mouth.stopTransmit(line.ear)
time.sleep(0.1)
del line
import gc; gc.collect(); time.sleep(0.1)
endpoint.libDestroy(pj.PJSUA_DESTROY_NO_RX_MSG)
assert faults == [], faults
assert [audio.number for audio in heard] == list(range(len(heard))), "numbers"
assert dropped == len(heard) // 3, dropped
samples = 0
for audio in heard:
    pcm = np.frombuffer(audio.pcm, np.int16)
    for run in audio.said:
        samples += run.count
        there = stream[run.position : run.position + run.count]
        assert np.abs(pcm[run.offset : run.offset + run.count].astype(int) - there).max() <= 1, (audio.number, run)
assert samples > 10_000, samples
"""


def test_mouth_and_ear_are_on_one_clock() -> None:
    """A mouth joined to its ear: each block holds, sample by sample, what its runs say was said in it.

    Blocks that the channel had no room for are counted all the same.
    """
    done = _in_child(_LOOP)
    assert (done.returncode, done.stderr) == (0, "")
