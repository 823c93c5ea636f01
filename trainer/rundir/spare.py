"""A file on a disk that can be rewritten when the disk is full.

To replace a file takes room for a second one, for a moment. Where it must not fail, the second one
is there all the time, beside the first under a hidden name: it is overwritten, and the two change
names, which takes no room (renameat2(2), Linux 3.15).
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

BLOCK = 4096  # bytes; more than a file that is kept so ever holds
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def spare_of(path: Path) -> Path:
    """Where the spare of a file is."""
    return path.with_name(f".spare-{path.name}")


def keep_spare(path: Path) -> None:
    """Makes the spare of a file, if there is room."""
    with suppress(OSError), spare_of(path).open("xb", buffering=0) as file:
        file.write(bytes(BLOCK))
        os.fsync(file.fileno())


def rewrite(path: Path, data: bytes | memoryview) -> bool:
    """Replaces a file by its spare, as one step. Returns whether it has one that does.

    Raises OSError when the disk does not even take that.
    """
    spare = spare_of(path)
    if len(data) > BLOCK:
        return False
    try:
        handle = os.open(spare, os.O_WRONLY)
    except FileNotFoundError:
        return False
    try:
        os.pwrite(handle, data, 0)
        os.ftruncate(handle, len(data))
        os.fsync(handle)
    finally:
        os.close(handle)
    libc = ctypes.CDLL(None, use_errno=True)
    names = (_AT_FDCWD, os.fsencode(spare), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE)
    return hasattr(libc, "renameat2") and libc.renameat2(*names) == 0
