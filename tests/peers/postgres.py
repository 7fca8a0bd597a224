"""A PostgreSQL server of the test's own: in a folder of its own, on 127.0.0.1, as a user without rights.

It can be stopped, started again, and frozen as if its machine hung. Nothing is written through to the disk.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from tests.peers import proc
from tests.peers.processes import free_port, search_path

PASSWORD = "Pr1vate-w0rd"
START_S = 30.0
_SETTINGS = (
    "fsync=off",
    "full_page_writes=off",
    "max_connections=40",
    "shared_buffers=16MB",
    "unix_socket_directories=",
)


class PostgresError(Exception):
    """The server did not do what it was told; the message carries its log."""


class Postgres:
    """A server; ``start``, ``stop`` and ``freeze`` it as often as needed."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.data = folder / "data"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        owner: dict[str, Any] = {}
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self._options = owner | {"cwd": folder, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        """The URL of one of its databases."""
        return f"postgresql://denwa:{password}@127.0.0.1:{self.port}/{database}"

    def init(self) -> None:
        """Make its folder."""
        word = self.folder / "password"
        word.write_text(PASSWORD)
        word.chmod(0o644)
        line = [_program("initdb"), "-D", str(self.data), "-U", "denwa", "-E", "UTF8", "--locale=C", "--no-sync"]
        line += ["--auth=scram-sha-256", f"--pwfile={word}"]
        done = subprocess.run(line, stdout=subprocess.PIPE, timeout=START_S, check=False, **self._options)
        if done.returncode:
            raise PostgresError(done.stdout.decode())

    def start(self) -> None:
        """Run it, and wait until it answers."""
        line = [_program("postgres"), "-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port)]
        line += [word for setting in _SETTINGS for word in ("-c", setting)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(line, stdout=log, start_new_session=True, **self._options)
        deadline = time.monotonic() + START_S
        ready = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, timeout=5, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise PostgresError(self._log.read_text(errors="replace"))
            time.sleep(0.05)

    def stop(self) -> None:
        """End it as an operator would, whoever is connected; idempotent."""
        if self._process is None:
            return
        self.thaw()
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process = None

    def kill(self) -> None:
        """End every process of it at once, frozen or not, as a failing machine does."""
        assert self._process is not None
        self._signal(signal.SIGKILL)
        self._process.wait(5)
        self._process = None

    def freeze(self) -> None:
        """Stop every process of it in its tracks: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    async def create_database(self) -> str:
        """A new database; returns its URL."""
        self._databases += 1
        name = f"test{self._databases}"
        connection = await asyncpg.connect(self.url(), timeout=10)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        return self.url(name)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        for pid in proc.tree(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server, gone at the end with all that was in it."""
    folder = Path(tempfile.mkdtemp(prefix="denwa-postgres-"))
    server = Postgres(folder)
    try:
        server.init()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str:
    path = shutil.which(name, path=search_path())
    if path is None:
        raise PostgresError(f"{name} is missing: apt-get install postgresql")
    return path
