"""SIPp: scenarios in XML, run against Denwa; a failure carries SIPp's own trace.

The scenarios use the keyword ``[service]`` (the called number); those that speak stream ``audio.pcmu``, which lies in
SIPp's working folder, from ports that SIPp counts up from 6000 by itself.
"""

import asyncio
import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.peers import g711
from tests.peers.audio import Samples
from tests.peers.processes import end, free_port

SCENARIOS = Path(__file__).parent / "scenarios"


class SippFailed(AssertionError):
    """A scenario did not go as it says."""


@dataclass(frozen=True, slots=True)
class SippResult:
    """What SIPp counted."""

    successful: int
    failed: int
    retransmissions: int
    messages: str
    """Every message sent and received, with its time (empty where it was not asked for)."""


async def sipp(
    scenario: str,
    port: int,
    *,
    called: str = "echo",
    calls: int = 1,
    rate: float = 10.0,
    at_once: int = 0,
    transport: str = "udp",
    audio: Samples | None = None,
    talk_s: float = 0.0,
    within_s: float = 30.0,
    trace: bool = True,
) -> SippResult:
    """Run ``scenarios/SCENARIO.xml`` against 127.0.0.1:``port`` and return what was counted.

    ``calls`` in total, ``rate`` new ones per second, ``at_once`` of them at a time (default: as many as come), each
    speaking ``audio`` (8 kHz) for ``talk_s`` where the scenario speaks.
    Raises ``SippFailed`` with the trace unless every call went as the scenario says, within ``within_s``.
    """
    with tempfile.TemporaryDirectory(prefix="sipp-") as name:
        folder = Path(name)
        if audio is not None:
            (folder / "audio.pcmu").write_bytes(g711.encode(audio, 0))
        arguments = [
            *("sipp", f"127.0.0.1:{port}", "-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", "127.0.0.1"),
            *("-t", "t1" if transport == "tcp" else "u1", "-p", str(free_port()), "-nostdin", "-mp", str(free_port())),
            *("-s", called, "-m", str(calls), "-r", str(rate), "-l", str(at_once or calls)),
            *(
                "-d",
                str(round(talk_s * 1000)),
                "-timeout",
                str(round(within_s)),
                "-timeout_error",
                "-trace_err",
                "-error_file",
                str(folder / "errors"),
            ),
            *("-trace_stat", "-stf", str(folder / "stat.csv"), "-fd", "1"),
            *(("-trace_msg", "-message_file", str(folder / "messages")) if trace else ()),
        ]
        with (folder / "screen").open("wb") as screen:
            process = await asyncio.create_subprocess_exec(
                *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=screen, stderr=screen, cwd=folder
            )
        try:
            async with asyncio.timeout(within_s + 10):
                status = await process.wait()
        except TimeoutError:
            status = -1
        finally:
            if process.returncode is None:
                process.kill()
            await end(process)
        result = _result(folder)
        if status != 0 or result.failed or result.successful != calls:
            texts = [_read(folder / part)[-8_000:] for part in ("screen", "errors", "messages")]
            raise SippFailed(f"{scenario}: exit {status}, {result.failed} failed\n" + "\n".join(texts))
        return result


def _result(folder: Path) -> SippResult:
    rows = list(csv.DictReader(_read(folder / "stat.csv").splitlines(), delimiter=";"))
    last = rows[-1] if rows else {}

    def count(column: str) -> int:
        return int(last.get(column) or 0)

    messages = _read(folder / "messages")
    return SippResult(count("SuccessfulCall(C)"), count("FailedCall(C)"), count("Retransmissions(C)"), messages)


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
