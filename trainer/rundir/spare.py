"""A file on a disk that can be written when the disk is full.

To write a file takes room, and so does to replace one: for a moment there are two. Where it must
not fail, room for it is kept all the time, as a file under a hidden name beside it: its spare. That
is overwritten, and then takes the name, or changes names with what has it, as one step
(renameat2(2), Linux 3.15). Neither takes room, nor an inode.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

BLOCK = 4096  # bytes
_AT_FDCWD = -100
_NO_REPLACE, _EXCHANGE = 1, 2


def spare_of(path: Path) -> Path:
    """Where the spare of a file is."""
    return path.with_name(f".spare-{path.name}")


def keep_spare(path: Path, size: int = BLOCK) -> None:
    """Makes the spare of a file of at most so many bytes, if there is room."""
    with suppress(OSError), spare_of(path).open("xb", buffering=0) as file:
        file.write(os.urandom(size))  # what disks cannot compress
        os.fsync(file.fileno())


def rewrite(path: Path, data: bytes | memoryview) -> bool:
    """Replaces a file by its spare, as one step. Returns whether it has one that does.

    Raises OSError when the disk does not even take that.
    """
    return _filled(spare_of(path), data) and _renamed(path, _EXCHANGE)


def create(path: Path, data: bytes) -> bool:
    """Gives the spare of a file its name. Returns whether it has one that does.

    Raises FileExistsError when somebody else has the name, and OSError as ``rewrite``.
    """
    if path.exists():
        raise FileExistsError(path)
    return _filled(spare_of(path), data) and _renamed(path, _NO_REPLACE)


def _renamed(path: Path, how: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = (_AT_FDCWD, os.fsencode(spare_of(path)), _AT_FDCWD, os.fsencode(path))
    if libc.renameat2(*names, how) == 0:
        return True
    if ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError(path)
    return False  # not on this file system


def _filled(spare: Path, data: bytes | memoryview) -> bool:
    try:
        handle = os.open(spare, os.O_WRONLY)
    except FileNotFoundError:
        return False
    try:
        if len(data) > max(BLOCK, os.fstat(handle).st_size):
            return False
        os.pwrite(handle, data, 0)
        os.ftruncate(handle, len(data))
        os.fsync(handle)
    finally:
        os.close(handle)
    return True
