"""config/process.py."""

import os
import subprocess
import sys
import time

import pytest

from config.process import prctl, start_quietly


def test_a_process_ends_with_its_parent() -> None:
    """A grandchild that asked for it is gone soon after its parent was killed."""
    child = (
        "import subprocess, sys, time\n"
        "code = 'from config.process import die_with_parent; import time; die_with_parent(); print(1, flush=True);'\n"
        "p = subprocess.Popen([sys.executable, '-c', code + 'time.sleep(60)'], stdout=subprocess.PIPE)\n"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _alive(pid)


def test_a_refusal_of_the_kernel_is_an_oserror() -> None:
    """An option that does not exist is refused."""
    with pytest.raises(OSError, match="prctl"):
        prctl(-1, 0)


def test_priorities_are_set_where_that_is_allowed() -> None:
    """Where it is allowed, a preferred process stands before its child, which starts at the common priority."""
    code = (
        "import os, subprocess, sys; from config.process import prefer_media, start_quietly; prefer_media()\n"
        "p = subprocess.Popen(['sleep', '5']); start_quietly(p.pid)\n"
        "print(os.getpriority(os.PRIO_PROCESS, 0), os.getpriority(os.PRIO_PROCESS, p.pid)); p.kill(); p.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    ours, child = map(int, done.stdout.split())
    assert ours == -10 or os.geteuid() != 0
    assert child == max(0, ours)


def test_a_child_that_is_gone_is_no_fault() -> None:
    """Nothing is raised for a process that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    start_quietly(child.pid)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
