"""What a line worker gives up before a peer's first byte reaches its C code (Linux; line worker)."""

import ctypes
import os
import pwd
import resource
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_NO_NEW_PRIVS: Final = 38

_libc = ctypes.CDLL(None, use_errno=True)


def drop_privileges(user: str | None) -> None:
    """Become ``user`` where we are root, never gain a privilege again, leave no core, die with the parent.

    Raises ``KeyError`` for an unknown user and ``OSError`` where the kernel refuses.
    """
    if user is not None and os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # last: a change of user clears it


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")
