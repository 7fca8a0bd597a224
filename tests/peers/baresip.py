"""baresip as a caller: a SIP phone written by others, run without a sound card.

It plays a WAV into the call (module aufile) and writes what it decodes (module sndfile, straight from the RTP, so no
playback clock of its own spoils the recording). It is controlled over ctrl_tcp: JSON in netstrings.
"""

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.peers.audio import Samples, read_wav
from tests.peers.processes import end, free_port

MODULES = Path("/usr/lib/baresip/modules")
RATES = {"PCMU": 8_000, "PCMA": 8_000, "G722": 16_000}
"""Samples per second that each codec carries; G722 calls itself 8000 on the wire (RFC 3551 section 4.5.2)."""
START_S = 10.0
EVENT_S = 10.0
_CONFIG = """\
poll_method epoll
sip_listen 127.0.0.1:{sip}
sip_certificate
audio_path {folder}
audio_source aufile,{play}
audio_alert aufile,{play}
ausrc_srate {rate}
ausrc_channels 1
audio_level no
call_local_timeout 120
call_max_calls 4
rtp_tos 0
rtp_ports {rtp}-{rtp_last}
rtcp_mux no
jitter_buffer_delay 2-10
net_interface 127.0.0.1
ctrl_tcp_listen 127.0.0.1:{ctrl}
snd_path {folder}
module_path {modules}
module aufile.so
module sndfile.so
module g711.so
module g722.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
"""


class BaresipError(Exception):
    """baresip did not do what it was told; the message carries its output."""


@dataclass
class Baresip:
    """A running baresip. Every wait is bounded; ``BaresipError`` says what did not come."""

    folder: Path
    sip_port: int
    rate: int
    process: asyncio.subprocess.Process
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    _log: Path
    events: list[dict[str, Any]] = field(default_factory=list)

    async def dial(self, uri: str) -> None:
        """Call ``uri`` and wait until the call is up."""
        await self.command("dial", uri)
        await self.wait_event("CALL_ESTABLISHED", failing="CALL_CLOSED")

    async def hangup(self) -> None:
        """End the call with BYE, or with CANCEL while it rings."""
        await self.command("hangup")

    async def hold(self) -> None:
        """Put the call on hold (re-INVITE with sendonly)."""
        await self.command("hold")

    async def resume(self) -> None:
        """Take the call off hold."""
        await self.command("resume")

    async def answer(self) -> None:
        """Wait for an incoming call and accept it."""
        await self.wait_event("CALL_INCOMING")
        await self.command("accept")
        await self.wait_event("CALL_ESTABLISHED", failing="CALL_CLOSED")

    async def command(self, command: str, params: str = "") -> str:
        """Run a command of baresip's menu; return its answer."""
        message = json.dumps({"command": command, "params": params, "token": command}).encode()
        self._writer.write(b"%d:%s," % (len(message), message))
        while True:
            answer = await self._next(f"an answer to {command}")
            if answer.get("response"):
                if not answer["ok"]:
                    raise BaresipError(f"{command} {params}: {answer}\n{self.log()}")
                return str(answer.get("data", ""))
            self.events.append(answer)

    async def wait_event(self, kind: str, *, failing: str = "", within_s: float = EVENT_S) -> dict[str, Any]:
        """Wait for an event that has not been waited for yet; ``failing`` is one after which it cannot come."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    while self.events:
                        event = self.events.pop(0)
                        if event.get("type") == kind:
                            return event
                        if failing and event.get("type") == failing:
                            raise BaresipError(f"{failing} instead of {kind}: {event}\n{self.log()}")
                    self.events.append(await self._next(kind))
        except TimeoutError as fault:
            raise BaresipError(f"no {kind} within {within_s} s\n{self.log()}") from fault

    def recording(self) -> Samples:
        """What the caller has heard in its latest call, at the codec's rate; complete once the call is over."""
        dumps = sorted(self.folder.glob("dump-*-dec.wav"), key=lambda path: path.stat().st_mtime)
        if not dumps:
            raise BaresipError(f"nothing recorded\n{self.log()}")
        samples, rate = read_wav(dumps[-1])
        assert rate == self.rate, f"recorded at {rate} Hz instead of {self.rate}"
        return samples

    def log(self) -> str:
        """Baresip's output so far."""
        return _text(self._log)

    async def _next(self, what: str) -> dict[str, Any]:
        try:
            async with asyncio.timeout(EVENT_S):
                size = int((await self._reader.readuntil(b":"))[:-1])
                message: dict[str, Any] = json.loads((await self._reader.readexactly(size + 1))[:-1])
                return message
        except (TimeoutError, asyncio.IncompleteReadError) as fault:
            raise BaresipError(f"{what} did not come ({fault!r})\n{self.log()}") from fault


@asynccontextmanager
async def baresip(play: Path, codec: str = "PCMU", transport: str = "udp") -> AsyncIterator[Baresip]:
    """Run a baresip that plays ``play`` (mono, codec's rate, longer than the call) and offers ``codec`` alone."""
    with tempfile.TemporaryDirectory(prefix="baresip-") as name:
        folder = Path(name)
        sip, ctrl, rtp = free_port(), free_port(), free_port() & ~1
        config = _CONFIG.format(
            folder=folder, play=play, rate=RATES[codec], sip=sip, ctrl=ctrl, rtp=rtp, rtp_last=rtp + 20, modules=MODULES
        )
        (folder / "config").write_text(config)
        (folder / "accounts").write_text(
            f"<sip:caller@127.0.0.1:{sip};transport={transport}>;regint=0;audio_codecs={codec}/{RATES[codec]}/1;answermode=manual\n"
        )
        (folder / "contacts").touch()
        log = folder / "log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                "baresip", "-f", name, "-s", stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            reader, writer = await _connect(ctrl, process, log)
            peer = Baresip(folder, sip, RATES[codec], process, reader, writer, log)
            try:
                yield peer
            finally:
                with suppress(BaresipError, ConnectionError):
                    await peer.command("quit")
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()
        finally:
            await end(process)


async def _connect(
    port: int, process: asyncio.subprocess.Process, log: Path
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(START_S):
            while process.returncode is None:
                with suppress(ConnectionRefusedError):
                    return await asyncio.open_connection("127.0.0.1", port)
                await asyncio.sleep(0.05)
    except TimeoutError:
        pass
    raise BaresipError(f"baresip does not start\n{_text(log)}")


def _text(log: Path) -> str:
    """A log without its colours and its twice-a-second line of bit rates."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r", "", log.read_text(errors="replace"))
    return "\n".join(line for line in text.splitlines() if line and "(bit/s)" not in line)
