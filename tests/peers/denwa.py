"""Denwa itself as a subprocess with a configuration of the test's own, and what its processes show from outside."""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.peers import proc
from tests.peers.processes import end, free_port

ROOT = Path(__file__).parents[2]
DEFAULTS = ROOT / "config" / "defaults"
START_S = 60.0
STOP_S = 15.0

AGENTS: dict[str, dict[str, Any]] = {
    "echo": {"model": "echo"},
    "slow": {"model": "echo", "answer_after_s": 1},
    "ringing": {"model": "echo", "answer_after_s": 30},
    "limited": {"model": "echo", "max_duration_s": 1},
}
"""Agents that answer the numbers of their names."""


@dataclass
class Denwa:
    """A running gateway."""

    folder: Path
    sip_port: int
    http_port: int
    rtp_ports: tuple[int, int]
    """First and last."""
    process: asyncio.subprocess.Process
    log_path: Path

    @property
    def server(self) -> tuple[str, int]:
        """Where SIP is heard, over UDP and TCP."""
        return "127.0.0.1", self.sip_port

    def log(self) -> list[dict[str, Any]]:
        """The JSON lines logged so far, by every process."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    async def wait_log(self, event: str, count: int = 1, within_s: float = 10.0) -> list[dict[str, Any]]:
        """Wait until ``event`` has been logged ``count`` times; return those lines."""
        until = time.monotonic() + within_s
        while len(found := [line for line in self.log() if line.get("event") == event]) < count:
            if time.monotonic() > until:
                raise AssertionError(f"{event} was logged {len(found)} times instead of {count}\n{self.tail()}")
            await asyncio.sleep(0.05)
        return found

    def tail(self) -> str:
        """The end of what it wrote."""
        return self.log_path.read_text(errors="replace")[-6_000:]

    def processes(self) -> list[int]:
        """The gateway and everything below it."""
        return proc.tree(self.process.pid)

    async def get(self, path: str) -> Any:
        """GET from the API; None where the answer is not 200."""
        status, body = await self._ask("GET", path)
        return json.loads(body) if status == 200 else None

    async def post(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """POST to the API: the status and the answer."""
        status, answer = await self._ask("POST", path, json.dumps(body or {}))
        return status, json.loads(answer) if answer else None

    async def delete(self, path: str) -> tuple[int, Any]:
        """DELETE at the API: the status and the answer."""
        status, answer = await self._ask("DELETE", path)
        return status, json.loads(answer) if answer else None

    async def wait_records(self, count: int = 1, within_s: float = 15.0) -> list[dict[str, Any]]:
        """Wait until so many calls are recorded; return their records, the latest first."""
        until = time.monotonic() + within_s
        while len(found := (await self.get("/v1/records?limit=1000")) or []) < count:
            if time.monotonic() > until:
                raise AssertionError(f"{len(found)} records instead of {count}\n{self.tail()}")
            await asyncio.sleep(0.1)
        return found

    def line_workers(self) -> list[int]:
        """Processes that hold lines."""
        return [pid for pid in self.processes() if "telephony.sip.line.worker" in proc.command(pid)]

    def model_workers(self) -> list[int]:
        """Processes that hold models."""
        return [pid for pid in self.processes() if "agent.cli worker" in proc.command(pid)]

    def kinds(self) -> dict[str, list[int]]:
        """All processes by what they are."""
        lines, models = self.line_workers(), self.model_workers()
        return {"gateway": [self.process.pid], "line worker": lines, "model worker": models}

    async def health(self) -> dict[str, Any]:
        """GET /healthz; ``{}`` while nobody answers."""
        status, body = await self._ask("GET", "/healthz")
        return {"http_status": status, **json.loads(body)} if body else {}

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        _, body = await self._ask("GET", "/metrics")
        rows = [line.rsplit(" ", 1) for line in body.splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(value) for _, value in rows)

    async def wait_health(self, within_s: float = START_S, **wanted: object) -> dict[str, Any]:
        """Wait until /healthz is 200 and shows what is wanted."""
        until = time.monotonic() + within_s
        while True:
            health = await self.health()
            if health.get("http_status") == 200 and all(health.get(key) == value for key, value in wanted.items()):
                return health
            if self.process.returncode is not None or time.monotonic() > until:
                raise AssertionError(f"not healthy: {health}, exit code {self.process.returncode}\n{self.tail()}")
            await asyncio.sleep(0.05)

    async def stop(self, within_s: float = STOP_S) -> None:
        """SIGTERM, then see that it exits with 0 and leaves no process behind; idempotent."""
        if self.process.returncode is None:
            running = self.processes()
            self.process.send_signal(signal.SIGTERM)
            await self.wait_stopped(running, within_s)

    async def wait_stopped(self, running: list[int], within_s: float = STOP_S) -> None:
        """Wait for the exit after a SIGTERM: code 0, and none of ``running`` is left."""
        try:
            async with asyncio.timeout(within_s):
                code = await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"did not stop within {within_s} s\n{self.tail()}") from None
        assert code == 0, f"exit code {code}\n{self.tail()}"
        left = [(pid, proc.command(pid)) for pid in running if proc.alive(pid)]
        assert not left, f"processes left behind: {left}"

    async def _ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        """One request; status 0 where nobody answers."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        base = f"http://127.0.0.1:{self.http_port}"
        try:
            async with httpx.AsyncClient(base_url=base, timeout=30, trust_env=False, verify=False) as client:
                answer = await client.request(method, path, content=body, headers=headers)
        except httpx.HTTPError:
            return 0, ""
        return answer.status_code, answer.text


@asynccontextmanager
async def denwa(
    folder: Path,
    *,
    sip: dict[str, Any] | None = None,
    models: dict[str, Any] | None = None,
    agents: dict[str, Any] | None = None,
    shipped: bool = False,
    prefix: tuple[str, ...] = (),
    status: str = "ok",
    **sections: Any,
) -> AsyncIterator[Denwa]:
    """Serve on free ports of 127.0.0.1 with the agents of ``AGENTS`` and those given, each under its own name.

    ``shipped``: instead of those of ``AGENTS`` with the agents and models that come with Denwa, and with its routes
    behind those of the agents given.

    ``sip`` and ``models`` override keys of those sections, ``sections`` are further ones (storage: keys of it);
    ``prefix`` goes before the command (taskset). On entry /healthz shows the ``status`` that is given; on exit it is
    stopped and must leave with 0 and no process behind.
    """
    sip_port, http_port, rtp_first = free_port(), free_port(), _free_range()
    section = {
        "listen": [f"udp:127.0.0.1:{sip_port}", f"tcp:127.0.0.1:{sip_port}"],
        "rtp_address": "127.0.0.1",
        "rtp_ports": {"first": rtp_first, "last": rtp_first + RTP_PORTS - 1},
        "rate_limit": {"per_s": 200, "burst": 400},
        "drain_s": 1,
    }
    given = agents or {}
    if shipped:
        defaults = yaml.safe_load((DEFAULTS / "denwa.yaml").read_text())
        shutil.copytree(DEFAULTS / "agents", folder / "agents")
        models = defaults["models"] | (models or {})
        own_routes = [{"called": name, "agent": name} for name in given]
        sections = {"routes": [*sections.get("routes", own_routes), *defaults["routes"]]} | {
            name: value for name, value in sections.items() if name != "routes"
        }
    else:
        given = AGENTS | given
    path = write_config(folder, http_port, section | (sip or {}), models or {}, given, **sections)
    log_path = folder / "log"
    process = await start(log_path, *prefix, sys.executable, "-m", "agent.cli", "serve", "--config", str(path))
    running = Denwa(folder, sip_port, http_port, (rtp_first, rtp_first + RTP_PORTS - 1), process, log_path)
    try:
        await running.wait_health(status=status)
        yield running
        await running.stop()
    finally:
        if process.returncode is None:
            process.terminate()
        await end(process)


def write_config(
    folder: Path, http_port: int, sip: dict[str, Any], models: dict[str, Any], agents: dict[str, Any], **sections: Any
) -> Path:
    """Write a denwa.yaml in which every agent answers the number of its name; the model ``echo`` is always there."""
    config = {
        "sip": sip,
        "models": {"echo": {"kind": "echo", "slots": 64}, **models},
        "agents": agents,
        "routes": [{"called": name, "agent": name} for name in agents],
        "observability": {"http_listen": f"127.0.0.1:{http_port}"},
        **sections,
        "storage": {
            **{name: str(folder / name) for name in ("transcripts", "recordings", "spool")},
            "database": f"sqlite:///{folder}/denwa.db",
            **sections.get("storage", {}),
        },
    }
    path = folder / "denwa.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


async def start(log_path: Path, *command: str) -> asyncio.subprocess.Process:
    """Start one of Denwa's commands as it is run outside of tests, its output in a file."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONASYNCIODEBUG"}
    with log_path.open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=environment
        )


RTP_PORTS = 400
_next_range = 16_000


def _free_range() -> int:
    """The first port of a range for one gateway's RTP, below the ports that the kernel gives away."""
    global _next_range
    _next_range = 16_000 + (_next_range - 16_000 + RTP_PORTS) % 12_000
    return _next_range
