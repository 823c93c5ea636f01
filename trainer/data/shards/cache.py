"""Shards on the disk of a VM: all processes that train there share them.

A file appears whole, or not at all, and is fetched by one process while others wait for it. There
is never more in the folder than its limit; what was used least recently goes first, and never what
somebody holds. A process that dies leaves nothing locked.

Locks are those of flock(2), which go with the descriptors that have them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.data.shards.failure import NO_CACHE, ShardError
from trainer.rundir.private import make_private
from trainer.rundir.retry import NO_ROOM

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_PART = ".part"  # the end of the name of what is being fetched
_OURS = re.compile(rf"[0-9]+({re.escape(_PART)})?")
_ROOM = ".room"  # whoever makes room has it locked
LOOK_EVERY = 0.005  # seconds, for a shard that another process fetches
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW


class NoRoom(OSError):
    """There is no room for a shard: everything in the cache is in use, or the disk is full."""


class Cache:
    """A folder that holds so much at most.

    Args:
        folder: where it is; it has a folder of its own there, which is made when it is needed. None
            for one of this user's, where temporary files are.
        limit: bytes, or a text such as ``20GiB``.

    Raises ShardError for a limit that is no size.
    """

    def __init__(self, folder: str | Path | None, limit: str | int) -> None:
        own = Path(tempfile.gettempdir()) / f"swell-shards-{os.geteuid()}"
        self.folder = own if folder is None else Path(folder).absolute() / "swell-shards"
        self.limit = _size(limit)

    def hold(self, name: str) -> int | None:
        """Opens a file to read it, and notes that it was used; None if it is not there.

        Whoever locks the descriptor (``keep``) keeps the file. Raises OSError.
        """
        try:
            fd = os.open(self.folder / name, os.O_RDONLY | _OPEN)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with suppress(OSError):
            os.utime(fd)
        return fd

    def keep(self, name: str) -> int | None:
        """As ``hold``; the file is not removed while the descriptor is open."""
        fd = self.hold(name)
        if fd is not None:
            fcntl.flock(fd, fcntl.LOCK_SH)
            if not os.fstat(fd).st_nlink:
                os.close(fd)
                return None
        return fd

    def get(self, name: str, size: int, fill: Callable[[int], None]) -> int:
        """Opens a file as ``hold`` does; fetches it before, if it is not there.

        Args:
            fill: writes all of it to a descriptor, which has room for it. What it raises goes
                through, and nothing is left then.

        Raises NoRoom, ShardError for a folder that cannot be used, and OSError.
        """
        while (fd := self.hold(name)) is None:
            self._prepare(name)
            aside = self.folder / f"{name}{_PART}"
            with self._claimed(aside) as part:
                if (self.folder / name).exists():  # another process has fetched it meanwhile
                    continue
                self._make_room(part, aside, size)
                fill(part)
                os.fdatasync(part)  # a VM that goes down must not leave a file of zeros
                aside.rename(self.folder / name)
                # It is there for everybody; and for this one, even if others make room at once.
                fcntl.flock(part, fcntl.LOCK_UN)
                return os.dup(part)
        return fd

    def remove(self, name: str) -> None:
        """Removes a file that turned out to be none."""
        with suppress(OSError):
            (self.folder / name).unlink()

    def used(self) -> int:
        """Bytes of all files, and of what is being fetched."""
        return sum(size for _, size, _ in self._files())

    def _prepare(self, name: str) -> None:
        """Makes the folder, which nobody else may write to."""
        try:
            make_private(self.folder)
            found = self.folder.lstat()
            others = stat.S_IMODE(found.st_mode) & 0o002 or found.st_uid not in (0, os.geteuid())
            if stat.S_ISDIR(found.st_mode) and not others:
                (self.folder / name).parent.mkdir(mode=0o700, exist_ok=True)
                return
        except OSError as error:
            raise ShardError(
                NO_CACHE, f"the cache of shards, {self.folder}, cannot be used: {error}; {_OTHER}"
            ) from error
        raise ShardError(
            NO_CACHE,
            f"the cache of shards, {self.folder}, is no folder of this user's, or others may write "
            f"to it; {_OTHER}",
        )

    @contextmanager
    def _claimed(self, aside: Path) -> Iterator[int]:
        """Opens what nobody else fetches meanwhile; it is gone afterwards if it was not renamed."""
        while True:
            fd = os.open(aside, os.O_RDWR | os.O_CREAT | _OPEN, 0o600)
            try:
                if not _locked(aside, fd):
                    continue
                try:
                    yield fd
                finally:
                    if _is(aside, fd):
                        aside.unlink()
                return
            finally:
                os.close(fd)

    def _make_room(self, fd: int, aside: Path, size: int) -> None:
        """Takes so many bytes for an open file; removes others where there are too many."""
        with self._making_room():
            files = sorted(one for one in self._files() if one[2] != aside)
            used = sum(one for _, one, _ in files)
            while used + size > self.limit:
                used -= self._remove_one(files)
            while True:
                try:
                    os.ftruncate(fd, 0)
                    os.posix_fallocate(fd, 0, size)
                    return
                except OSError as error:
                    if error.errno not in NO_ROOM:
                        raise
                    os.ftruncate(fd, 0)
                    full = error
                try:
                    self._remove_one(files)
                except NoRoom:
                    raise NoRoom(full.errno, full.strerror, str(self.folder)) from None

    def _remove_one(self, files: list[tuple[float, int, Path]]) -> int:
        """Removes the first file that nobody holds, and returns its size. Raises NoRoom."""
        while files:
            _, size, path = files.pop(0)
            with suppress(OSError):
                fd = os.open(path, os.O_RDONLY | _OPEN)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    return size
                finally:
                    os.close(fd)
        raise NoRoom(0, "all of it is in use", str(self.folder))

    @contextmanager
    def _making_room(self) -> Iterator[None]:
        fd = os.open(self.folder / _ROOM, os.O_RDWR | os.O_CREAT | _OPEN, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each file was used last, its size, and its path."""
        found = []
        for path in self.folder.glob("*/*"):
            if not _OURS.fullmatch(path.name):
                continue
            with suppress(OSError):
                about = path.lstat()
                found.append((about.st_mtime, about.st_size, path))
        return found


_OTHER = "name another one: Shards(…, folder=…), or remove it"


def full(error: OSError) -> bool:
    """Whether the disk is, and not the cache."""
    return error.errno in NO_ROOM or error.errno in (errno.EROFS, errno.EIO)


def _locked(path: Path, fd: int) -> bool:
    """Waits for the lock of a file; False if whoever had it has renamed or removed it meanwhile.

    To wait in the kernel could be to wait for ever: what was fetched may be locked again at once by
    who keeps it, and that for as long as this one reads nothing.
    """
    while _is(path, fd):
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _is(path, fd)
        time.sleep(LOOK_EVERY)
    return False


def _is(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _size(text: str | int) -> int:
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,10})?)\s*([KMGT]iB)", str(text))
    if found is None:
        raise ShardError(NO_CACHE, f"cache={text!r} is no size; write one such as 20GiB")
    return int(float(found[1]) * _UNITS[found[2]])
