"""Reads samples of shards, wherever these are: in a folder, in the cache, or in the bucket alone.

A shard is opened once and kept open for a while. What does not fit into the cache is read from the
bucket sample by sample: slow, and training goes on.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data.shards.cache import Cache, NoRoom, full
from trainer.data.shards.failure import UNREADABLE, Notices, ShardError
from trainer.data.shards.index import HASHES, Index, Shard
from trainer.data.shards.source import PART, Source

OPEN = 192  # shards in a process at once
AGAIN = 30.0  # seconds until room is looked for again
_Read = Callable[[int, int], bytes]  # the bytes [start, stop) of a shard, as far as there are any


@dataclass(frozen=True)
class Opened:
    """A shard that is open.

    Attributes:
        fd: of its file; None where there is none.
        read: its bytes.
        offsets: where each sample begins, and the end.
        until: monotonic seconds until which it stays so.
    """

    fd: int | None
    read: _Read
    offsets: memoryview[int]
    until: float

    @property
    def stale(self) -> bool:
        """Whether it is to be opened anew: its file was removed, or there may be room for one."""
        if self.fd is None:
            return time.monotonic() > self.until
        return not os.fstat(self.fd).st_nlink


@dataclass
class Reader:
    """Reads samples.

    Args:
        source: where the shards are.
        index: what there is.
        cache: where they are kept; None for a folder of this machine.
        prefix: of their names in the cache.
    """

    source: Source
    index: Index
    cache: Cache | None
    prefix: str
    _opened: OrderedDict[int, Opened] = field(default_factory=OrderedDict)
    _verified: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    _notices: Notices = field(default_factory=Notices)
    _one: threading.Lock = field(default_factory=threading.Lock)  # none closes what another reads

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.index, self.cache, self.prefix)

    def read(self, number: int, place: int, sample: int) -> bytes:
        """The bytes of a sample.

        Args:
            number: of the shard.
            place: of the sample in it.
            sample: its number, for messages.

        Raises ShardError.
        """
        shard, why = self.index.shards[number], f"sample {sample}"
        with self._one:
            opened = self._opened.get(number) or self._open(number, shard, why)
            self._opened.move_to_end(number)
            data = self._part(opened, place, shard, why)
            if data is None and self.cache is not None:
                # The cache's disk fails, or somebody has written there.
                self._drop(number)
                self.cache.remove(self.name(number))
                data = self._part(self._open(number, shard, why), place, shard, why)
            if data is None:
                self._drop(number)
                raise self.source.changed(shard, why, "it ends before this sample does")
            return data

    def close(self) -> None:
        """Closes all shards."""
        with self._one:
            for number in [*self._opened]:
                self._drop(number)

    def fetch(self, number: int, why: str = "") -> int:
        """Opens the file of a shard in the cache; fetches it before, if it is not there.

        Raises NoRoom, ShardError, OSError.
        """
        assert self.cache is not None
        shard = self.index.shards[number]
        self.source.prepare()  # while nobody waits for it

        def fill(fd: int) -> None:
            self.source.copy(shard, partial(_write, fd), why)

        return self.cache.get(self.name(number), shard.size, fill)

    def name(self, number: int) -> str:
        """That of a shard in the cache."""
        return f"{self.prefix}/{number}"

    def _open(self, number: int, shard: Shard, why: str) -> Opened:
        for old in [one for one, opened in self._opened.items() if opened.stale]:
            self._drop(old)
        while len(self._opened) >= OPEN:
            self._drop(next(iter(self._opened)))
        if self.cache is None:
            opened = self._of_file(self._local(number, shard, why), shard, why)
        else:
            opened = self._kept(number, shard) or self._fetched(number, shard, why)
        self._opened[number] = opened
        return opened

    def _of_file(self, fd: int, shard: Shard, why: str) -> Opened:
        read: _Read = partial(_pread, fd)
        try:
            return Opened(fd, read, self.source.offsets(shard, read, why), 0.0)
        except BaseException:
            os.close(fd)
            raise

    def _kept(self, number: int, shard: Shard) -> Opened | None:
        """A shard that is in the cache; one that is broken there is removed."""
        assert self.cache is not None
        with suppress(OSError, ShardError):
            fd = self.cache.hold(self.name(number))
            if fd is None:
                return None
            opened = self._of_file(fd, shard, "")
            if os.fstat(fd).st_size == shard.size:
                return opened
            os.close(fd)
        self.cache.remove(self.name(number))
        return None

    def _fetched(self, number: int, shard: Shard, why: str) -> Opened:
        """A shard that is fetched now, or where there is no room for it, read where it is."""
        fd = self._cached(number, why)
        if fd is not None:
            return self._of_file(fd, shard, why)
        if number not in self._verified:  # once, as what is cached is
            self.source.copy(shard, lambda part: None, why)
            self._verified[number] = (0, 0, 0)

        def read(start: int, stop: int) -> bytes:
            return self.source.part(shard, start, stop, why)

        offsets = self.source.offsets(shard, read, why)
        return Opened(None, read, offsets, time.monotonic() + AGAIN)

    def _part(self, opened: Opened, place: int, shard: Shard, why: str) -> bytes | None:
        """The bytes of a sample; None where they are not there."""
        start, stop = opened.offsets[place], opened.offsets[place + 1]
        try:
            data = opened.read(start, stop)
        except OSError as error:
            if self.cache is None:
                raise self._unreadable(shard, why, error) from error
            return None
        return data if len(data) == stop - start else None

    def _cached(self, number: int, why: str) -> int | None:
        """The file of a shard in the cache; None where there is no room for it."""
        assert self.cache is not None
        try:
            return self.fetch(number, why)
        except NoRoom as error:
            if full(error):
                self._notices.say(
                    "SW5180",
                    f"the disk of the cache of shards is full ({self.cache.folder}), and {why} is "
                    f"read from {self.source.url} without it, as others will be, which is slow; "
                    "make room, or name another folder: Shards(…, folder=…)",
                )
            else:
                size = self.index.shards[number].size
                self._notices.say(
                    "SW5182",
                    f"the cache of shards, of {self.cache.limit} bytes ({self.cache.folder}), has "
                    f"no room for one of {size} bytes beside those that are in use, and {why} is "
                    f"read from {self.source.url} without it, as others will be, which is slow; "
                    "give it more: Shards(…, cache=…), or use fewer shards at a time: lanes=, "
                    "block=",
                )
        except OSError as error:  # a disk that fails: the bucket does not
            self._notices.say(
                "SW5180",
                f"the cache of shards cannot be used ({error}), and {why} is read from "
                f"{self.source.url} without it, as others will be, which is slow; name another "
                "folder: Shards(…, folder=…)",
            )
        return None

    def _local(self, number: int, shard: Shard, why: str) -> int:
        """Opens a file of this machine. Its checksum is taken when it is opened for the first time,
        or has changed since."""
        path = Path(self.source.store.path(shard.name))
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self.source.part(shard, 0, 1, why)  # if it is missing
            raise self._unreadable(shard, why, error) from error
        try:
            about = os.fstat(fd)
            if about.st_size != shard.size:
                raise self.source.changed(shard, why, f"it has {about.st_size} bytes")
            state = about.st_ino, about.st_mtime_ns, about.st_size
            if shard.hash is not None and self._verified.get(number) != state:
                known = HASHES[shard.hash[0]]()
                for start in range(0, shard.size, PART):
                    known.update(os.pread(fd, PART, start))
                if known.hexdigest() != shard.hash[1]:
                    raise self.source.changed(shard, why, f"its {shard.hash[0]} is another one")
                self._verified[number] = state
        except OSError as error:
            os.close(fd)
            raise self._unreadable(shard, why, error) from error
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _unreadable(self, shard: Shard, why: str, error: OSError) -> ShardError:
        return ShardError(
            UNREADABLE,
            f"shard {self.source.url}/{shard.name} cannot be read, for {why}: {error}; it must be "
            "there for all workers, and they must be allowed to read it",
        )

    def _drop(self, number: int) -> None:
        opened = self._opened.pop(number)
        if opened.fd is not None:
            os.close(opened.fd)


def _pread(fd: int, start: int, stop: int) -> bytes:
    data = os.pread(fd, stop - start, start)
    while data and len(data) < stop - start:  # more than the kernel reads at once
        more = os.pread(fd, stop - start - len(data), start + len(data))
        if not more:
            break
        data += more
    return data


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.write(fd, rest) :]
