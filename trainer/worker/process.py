"""A worker's process: its name, and that it never outlives the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_NAME = 15


def die_with_parent(parent: int | None = None) -> None:
    """Asks the kernel to kill this process when the one that started it is gone.

    ``parent`` is that one's id, where this process may come too late to ask for it.
    """
    parent = parent or os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def name_process(name: str) -> None:
    """Gives this process the name that ps and top show beside its command line."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


def lead_group() -> None:
    """Makes this process the leader of a group, with which what it leaves behind can be killed."""
    with suppress(PermissionError):  # it leads a session
        os.setpgid(0, 0)
