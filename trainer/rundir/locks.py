"""Locks of files, which say that a process lives: the kernel gives them back when it dies.

Whoever wants to know whether one is held takes it for a moment, shared with others who look. So
whoever wants to hold it tries more than once.
"""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

LOOKS, LOOK_SECONDS = 50, 0.02


def hold(file: int) -> bool:
    """Takes the lock of an open file, until the file is closed everywhere.

    Returns False when another process holds it.
    """
    for _ in range(LOOKS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK_SECONDS)
        else:
            return True
    return False


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; none does where there is no file."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
