"""What the processes of Denwa ask of the kernel: to end with their parent, and to be scheduled before others."""

import contextlib
import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_MEDIA_NICENESS: Final = -10
"""docs/decisions.md, "Niceness of media processes"."""

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set one option of this process in the kernel. Raises ``OSError`` where that is refused."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, even if that was a moment ago (Linux; else nothing).

    A change of user undoes it, so it is called after that.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def start_quietly(pid: int) -> None:
    """Give a child just spawned the common priority, whatever ours: its imports must not delay the calls that run.

    Once it serves, it asks for more itself: ``prefer_media``.
    """
    with contextlib.suppress(PermissionError, ProcessLookupError):
        if os.getpriority(os.PRIO_PROCESS, 0) < 0:
            os.setpriority(os.PRIO_PROCESS, pid, 0)


def prefer_media() -> None:
    """Be scheduled before what else this machine does, where we may: a frame is due every 20 ms."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _MEDIA_NICENESS)
