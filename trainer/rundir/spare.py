"""A file on a disk that can be written when the disk is full.

To write a file takes room, and so does to replace one: for a moment there are two. Where it must
not fail, room for it is kept all the time, as a file under a hidden name beside it: its spare. That
is overwritten, and then takes the name, or changes names with what has it, as one step
(renameat2(2), Linux 3.15). Neither takes room, nor an inode.

Several may want one spare at the same moment, for an outcome or a claim is whoever's is first. So
it is locked from before it is overwritten until it has its name.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from trainer.rundir.retry import NO_ROOM

BLOCK = 4096  # bytes
_AT_FDCWD = -100
_NO_REPLACE, _EXCHANGE = 1, 2
_PREFIX = ".spare-"


def spare_of(path: Path) -> Path:
    """Where the spare of a file is."""
    return path.with_name(f"{_PREFIX}{path.name}")


def keep_spare(path: Path, size: int = BLOCK, mode: int = 0o666) -> None:
    """Makes the spare of a file of at most so many bytes, if there is room.

    Args:
        path: the file.
        size: bytes.
        mode: of the file that is made of it, as os.open takes it.
    """
    spare = spare_of(path)
    made = partial(os.open, mode=mode)
    with suppress(OSError), open(spare, "xb", buffering=0, opener=made) as file:
        try:
            if file.write(os.urandom(size)) < size:  # random: what disks cannot compress
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            spare.unlink()  # half of one would be in the way when there is room again


def rewrite(path: Path, data: bytes | memoryview) -> bool:
    """Replaces a file by a spare, as one step. Returns whether there was one that does.

    Of files that are numbered, one without a spare of its own takes that of a lower number, which
    nobody writes any more.

    Raises OSError when the disk fails.
    """
    return any(_put(spare, path, data, _EXCHANGE) for spare in _spares(path))


def create(path: Path, data: bytes) -> bool:
    """Gives the spare of a file its name. Returns whether it has one that does.

    Raises FileExistsError when somebody else has the name, and OSError as ``rewrite``.
    """
    if path.exists():
        raise FileExistsError(path)
    return _put(spare_of(path), path, data, _NO_REPLACE)


def _spares(path: Path) -> list[Path]:
    own = spare_of(path)
    if not path.stem.isdecimal():
        return [own]
    numbered = path.parent.glob(f"{_PREFIX}[0-9]*")
    return [own, *sorted(one for one in numbered if one.name < own.name)]


def _put(spare: Path, path: Path, data: bytes | memoryview, how: int) -> bool:
    with _taken(spare) as handle:
        return handle is not None and _filled(handle, data) and _renamed(spare, path, how)


@contextmanager
def _taken(spare: Path) -> Iterator[int | None]:
    """Yields the open spare, which is nobody else's in the block; None when there is none."""
    while True:
        try:
            handle = os.open(spare, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # none, or what somebody else has put there
            yield None
            return
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
                yield None
                return
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_still(spare, about):
                continue  # it has got a name meanwhile
            yield handle
            return
        finally:
            os.close(handle)


def _is_still(spare: Path, about: os.stat_result) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(spare.lstat(), about)
    return False


def _renamed(spare: Path, path: Path, how: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = (_AT_FDCWD, os.fsencode(spare), _AT_FDCWD, os.fsencode(path))
    if libc.renameat2(*names, how) == 0:
        return True
    if ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError(path)
    return False  # not on this file system


def _filled(handle: int, data: bytes | memoryview) -> bool:
    about = os.fstat(handle)
    if len(data) > max(BLOCK, about.st_size, 512 * about.st_blocks):
        return False
    try:
        os.pwrite(handle, data, 0)
        os.ftruncate(handle, len(data))
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_ROOM:  # whoever made it was killed before it was whole
            raise
        return False
    return True
