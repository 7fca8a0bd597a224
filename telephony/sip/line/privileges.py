"""What a line worker gives up before a peer's first byte reaches its C code (Linux; line worker)."""

import os
import pwd
import resource
from typing import Final

from config.process import die_with_parent, prctl

_PR_SET_NO_NEW_PRIVS: Final = 38  # linux/prctl.h


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
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    die_with_parent()  # last: a change of user clears it
