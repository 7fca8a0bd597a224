"""serve.py, app.py and client.py together: a real worker process of the echo model, over real sockets."""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
import pytest_asyncio
import uvloop

from config.schema import ModelSettings
from model_runtime.errors import ModelLost, NoFreeSlot
from model_runtime.worker.client import open_session, probe
from model_runtime.worker.health import WorkerHealth
from model_runtime.worker.protocol import Open
from tests.model_runtime.worker.process import BOUND_S, Inbox, WorkerProcess, ended, worker_process

ECHO = ModelSettings(kind="echo", slots=2)


@pytest_asyncio.fixture
async def worker() -> AsyncIterator[WorkerProcess]:
    """A worker of two echo slots."""
    async with worker_process(ECHO) as process:
        yield process


async def test_fifty_frames_come_back_bit_exact(worker: WorkerProcess) -> None:
    """An echo session returns each frame as it was, counted, with its capture time and its timings."""
    sent = np.random.default_rng(1).integers(-(2**15), 2**15, (50, 1920), np.int16)
    inbox = Inbox()
    async with open_session(worker.url, Open(seed=1), on_frame=inbox) as session:
        assert session.ready is not None
        assert (session.ready.slots, session.ready.model) == (2, "line")
        for i, frame in enumerate(sent):
            session.send_audio(frame, captured_at=100.0 + i)
            await inbox.wait(i + 1)
    heard = np.stack([np.frombuffer(frame.pcm, np.int16) for frame in inbox.frames])
    assert np.array_equal(heard, sent)
    assert [frame.step for frame in inbox.frames] == list(range(50))
    assert [frame.captured_at for frame in inbox.frames] == [100.0 + i for i in range(50)]
    assert all(frame.tokens == () and frame.text == "" for frame in inbox.frames)
    assert all(0 <= frame.wait_ms < 1000 and 0 <= frame.step_ms < 1000 for frame in inbox.frames)
    assert session.frames_dropped == 0
    await session.wait_closed()  # we closed it: no error


async def test_a_session_too_many_gets_no_free_slot(worker: WorkerProcess) -> None:
    """Sessions beyond the slots raise ``NoFreeSlot``; a slot is free again as soon as its session has closed."""
    request = Open(seed=1)
    async with open_session(worker.url, request, on_frame=Inbox()):
        async with open_session(worker.url, request, on_frame=Inbox()):
            assert (await probe(worker.url)).free == 0
            with pytest.raises(NoFreeSlot, match="all 2 slots are taken"):
                async with open_session(worker.url, request, on_frame=Inbox()):
                    pass
        async with open_session(worker.url, request, on_frame=Inbox()):
            pass
    assert await probe(worker.url) == WorkerHealth("ok", "line", 2, 2, None)


async def test_a_killed_worker_is_noticed_at_once(worker: WorkerProcess) -> None:
    """``kill -9`` of the worker ends its sessions with ``ModelLost`` within a second."""
    async with open_session(worker.url, Open(seed=1), on_frame=Inbox()) as session:
        worker.signal(signal.SIGKILL)
        killed_at = time.monotonic()
        assert isinstance(await ended(session), ModelLost)
        assert time.monotonic() - killed_at < 1.0


async def test_a_worker_that_hangs_is_noticed(worker: WorkerProcess) -> None:
    """Audio that goes unanswered for ``lost_after_s`` ends the session with ``ModelLost``."""
    async with open_session(worker.url, Open(seed=1), on_frame=Inbox(), lost_after_s=0.5) as session:
        worker.signal(signal.SIGSTOP)
        session.send_audio(np.zeros(1920, np.int16), 0.0)
        error = await ended(session)
        assert isinstance(error, ModelLost)
        assert "no answer for 0.5 s" in str(error)
    with pytest.raises(ModelLost, match=r"no answer within 0\.2 s"):
        await probe(worker.url, timeout_s=0.2)


async def test_the_port_outlives_the_process(worker: WorkerProcess) -> None:
    """A client that connects between two processes waits in the inherited socket's backlog and is served."""
    worker.signal(signal.SIGKILL)
    await worker.wait()
    inbox = Inbox()

    async def converse() -> None:
        async with open_session(worker.url, Open(seed=1), on_frame=inbox, timeout_s=BOUND_S) as session:
            session.send_audio(np.zeros(1920, np.int16), 0.0)
            await inbox.wait(1)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(converse(), name="converse")
        await worker.start()


async def test_sigterm_drains(worker: WorkerProcess) -> None:
    """After SIGTERM a running session goes on and is asked to move, and new ones are refused.

    The last one's end is the process' end, with exit code 0.
    """
    inbox, asked = Inbox(), asyncio.Event()
    async with open_session(worker.url, Open(seed=1), on_frame=inbox, on_drain=asked.set) as session:
        worker.signal(signal.SIGTERM)
        async with asyncio.timeout(BOUND_S):
            await asked.wait()
        assert session.draining
        assert (await probe(worker.url)).status == "draining"
        with pytest.raises(NoFreeSlot, match="draining"):
            async with open_session(worker.url, Open(seed=1), on_frame=Inbox()):
                pass
        session.send_audio(np.ones(1920, np.int16), 0.0)
        await inbox.wait(1)
    assert await worker.wait() == 0


async def test_a_drain_has_an_end() -> None:
    """A session that does not move is cut off when the drain's time is over."""
    async with (
        worker_process(ECHO, drain_s=0.2) as worker,
        open_session(worker.url, Open(seed=1), on_frame=Inbox()) as session,
    ):
        worker.signal(signal.SIGTERM)
        assert isinstance(await ended(session), ModelLost)
        assert await worker.wait() == 0


PARENT = """
import json, socket, subprocess, sys
listener = socket.create_server(("127.0.0.1", 0))
fd = listener.fileno()
program = '''
import sys
from config.schema import ModelSettings
from model_runtime.worker.serve import serve_worker
serve_worker('line', ModelSettings(kind='echo'), fd=int(sys.argv[1]))
'''
worker = subprocess.Popen([sys.executable, "-c", program, str(fd)], pass_fds=[fd], start_new_session=True)
print(listener.getsockname()[1], flush=True)
worker.wait()
"""


async def test_no_worker_outlives_its_parent() -> None:
    """``kill -9`` of the process that started a worker on an inherited socket ends the worker too."""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    async with asyncio.timeout(BOUND_S):
        url = f"ws://127.0.0.1:{int(await parent.stdout.readline())}"
        async with open_session(url, Open(seed=1), on_frame=Inbox(), timeout_s=BOUND_S) as session:
            parent.kill()
            await parent.wait()
            assert isinstance(await ended(session), ModelLost)
    with pytest.raises(ModelLost):  # both holders of the socket are gone
        await probe(url)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_client_runs_on_both_event_loops(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A session converses on asyncio's loop and on uvloop's, and neither holds small writes back (TCP_NODELAY)."""

    async def converse() -> int:
        inbox = Inbox()
        async with worker_process(ECHO) as worker, open_session(worker.url, Open(seed=1), on_frame=inbox) as session:
            session.send_audio(np.ones(1920, np.int16), 0.0)
            await inbox.wait(1)
            assert session._transport is not None
            raw = session._transport.get_extra_info("socket")
            held_back = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        assert not held_back
        return len(inbox.frames)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(converse()) == 1


async def test_metrics_tell_of_slots_and_steps(worker: WorkerProcess) -> None:
    """/metrics shows the slots in use and counts the steps."""
    inbox = Inbox()
    async with open_session(worker.url, Open(seed=1), on_frame=inbox) as session:
        session.send_audio(np.ones(1920, np.int16), 0.0)
        await inbox.wait(1)
        reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: line\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(BOUND_S):
            text = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    assert 'denwa_worker_slots_used{model="line"} 1.0' in text
    assert 'denwa_worker_step_seconds_count{model="line"} 1.0' in text
