"""Where shards come from: a folder of a bucket, or of this machine.

What is read whole is verified: its size, its checksum where the index has one, and where its
samples begin. A bucket that throttles is asked again and again, as others are that share its
limits; after a while a line says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from fsspec import get_filesystem_class
from fsspec.utils import get_protocol

from trainer.data.shards.failure import CHANGED, NO_SHARDS, UNREADABLE, Notices, ShardError
from trainer.data.shards.index import HASHES, LIMIT, NAME, Index, Shard
from trainer.rundir.retry import Backoff, StoreUnavailable
from trainer.rundir.store import Store

PART = 2**24  # bytes that are asked for at once
TRIES = Backoff(first=0.2, longest=5.0, limit=10.0)  # before a line says so
PATIENCE = 600.0  # seconds; then it is an error
T = TypeVar("T")


@dataclass
class Source:
    """A folder of shards.

    Args:
        url: any fsspec URL, or a local path.
        tries: how a request that fails for a moment is tried again, before a line says so.
        patience: seconds for which it is tried again after that.
    """

    url: str
    tries: Backoff = TRIES
    patience: float = PATIENCE
    _notices: Notices = field(default_factory=Notices, repr=False)
    _opened: Store | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, object]:
        """Connections are opened by the process that needs them."""
        return {**vars(self), "_opened": None}

    def prepare(self) -> None:
        """Has the client of the store there: to import gcsfs takes a second or more."""
        assert self.store

    def load_client(self) -> None:
        """Imports the client, and opens nothing: processes that are forked have it then."""
        get_filesystem_class(get_protocol(self.url))

    @property
    def store(self) -> Store:
        """The folder's files."""
        if self._opened is None:
            self._opened = Store(self.url, retry=self.tries)
        return self._opened

    def index(self) -> Index:
        """What there is. Raises ShardError."""
        where = f"{self.url}/{NAME}"
        try:
            data = self._patiently(where, "", lambda: self.store.read(NAME, LIMIT))
        except FileNotFoundError:
            raise ShardError(
                NO_SHARDS,
                f"{where} is missing; give the folder of shards in the format MDS that has it, or "
                "write one with trainer.data.write_shards",
            ) from None
        return Index.parse(data, where)

    def copy(self, shard: Shard, write: Callable[[bytes], object], why: str = "") -> None:
        """Hands over all bytes of a shard, part by part; they are verified at the end.

        Args:
            write: takes the next bytes. What it raises goes through.
            why: what it is read for, for messages.

        Raises ShardError for a shard that is missing, or is not the one that the index has, and
        for a bucket that does not answer.
        """
        known = HASHES[shard.hash[0]]() if shard.hash is not None else None
        done, stop = 0, 0
        while stop <= shard.size:
            # A byte more than there is to be would show; and no part begins at the end.
            stop = done + PART if done + PART < shard.size else shard.size + 1
            part = self.part(shard, done, stop, why)
            done += len(part)
            if done != min(stop, shard.size):
                found = f"more than {shard.size}" if done > shard.size else f"{done}"
                raise self.changed(shard, why, f"it has {found} bytes")
            if known is not None:
                known.update(part)
            write(part)
        if known is not None and shard.hash is not None and known.hexdigest() != shard.hash[1]:
            raise self.changed(shard, why, f"its {shard.hash[0]} is another one")

    def part(self, shard: Shard, start: int, stop: int, why: str = "") -> bytes:
        """The bytes [start, stop) of a shard, or those of them that there are.

        Raises ShardError for one that is missing, and a bucket that does not answer.
        """
        what = f"shard {self.url}/{shard.name}"
        try:
            return self._patiently(what, why, lambda: self.store.read_part(shard.name, start, stop))
        except FileNotFoundError:
            raise ShardError(
                UNREADABLE,
                f"{what} is missing, and {NAME} has it{_for(why)}; put it back, or write all of "
                "them anew",
            ) from None

    def changed(self, shard: Shard, why: str, found: str) -> ShardError:
        """The error for a shard that is not the one that the index has."""
        return ShardError(
            CHANGED,
            f"shard {self.url}/{shard.name} is truncated or was changed: {found}, and {NAME} says "
            f"{shard.size} bytes with {shard.samples} samples"
            f"{'' if shard.hash is None else f' and {shard.hash[0]} {shard.hash[1]}'}{_for(why)}; "
            "put the one back that was written with it, or write all of them anew",
        )

    def offsets(
        self, shard: Shard, read: Callable[[int, int], bytes], why: str = ""
    ) -> memoryview[int]:
        """Where in a shard each sample begins, and the last one ends: numbers of 32 bits.

        Args:
            read: the bytes [start, stop) of it.

        Raises ShardError when they cannot be those of its samples.
        """
        head = 4 * (shard.samples + 2)
        table = np.frombuffer(read(0, head)[: head // 4 * 4], "<u4")
        if len(table) < shard.samples + 2 or int(table[0]) != shard.samples:
            count = int(table[0]) if len(table) else 0
            raise self.changed(shard, why, f"it begins as one with {count} samples")
        offsets = table[1:]
        inside = int(offsets[0]) >= head and int(offsets[-1]) <= shard.size
        if not inside or bool((offsets[1:] < offsets[:-1]).any()):
            raise self.changed(shard, why, "its samples do not follow each other")
        # A number of it is had much sooner than one of an array.
        return offsets.data

    def _patiently(self, what: str, why: str, read: Callable[[], T]) -> T:
        """Returns what ``read`` does, however long the bucket refuses it for a moment."""
        began = time.monotonic()
        while True:
            try:
                return read()
            except (FileNotFoundError, NotADirectoryError):
                raise FileNotFoundError from None
            except StoreUnavailable as error:
                said = f"{what} cannot be read now{_for(why)}, and is tried again: {error}"
                if time.monotonic() - began > self.patience:
                    raise ShardError(
                        "SW5178",
                        f"{what} could not be read for {self.patience:g} s{_for(why)}; look at the "
                        f"bucket's quotas, and at what else reads from it: {error}",
                    ) from error
                self._notices.say("SW5178", said)
            except (OSError, ValueError) as error:
                raise ShardError(
                    UNREADABLE,
                    f"{what} cannot be read{_for(why)}: {error}; it must be there for all workers, "
                    "and they must be allowed to read it",
                ) from error


def _for(why: str) -> str:
    return f", for {why}" if why else ""
