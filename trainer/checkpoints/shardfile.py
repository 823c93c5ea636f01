"""The files of a checkpoint's shards: how one is named, checked and written.

Without torch, for the process that writes them (see trainer.checkpoints.scribe). The checksum is
XXH3-128: it is there to find damage, at the speed of memory, and nobody signs a checkpoint.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeAlias

from xxhash import xxh3_128_hexdigest

from trainer.rundir.store import Store

WRITERS = 4  # threads
NICENESS = 10  # theirs

Data: TypeAlias = bytes | memoryview


@dataclass(frozen=True)
class Part:
    """Where in memory the file of shard ``number`` is."""

    number: int
    offset: int
    size: int


@dataclass(frozen=True)
class ShardFile:
    """One shard as it must be: a file in the checkpoint's folder."""

    name: str
    bytes: int
    xxh3: str

    @classmethod
    def of(cls, part: Part, total: int, data: memoryview) -> ShardFile:
        """That of a shard, one of ``total``, with this content.

        Its name tells the content: whoever else writes this step cannot touch a shard that is
        not the same.
        """
        digest = checksum(data)
        name = f"part-{part.number:05d}-of-{total:05d}-{digest[:16]}.safetensors"
        return cls(name, len(data), digest)

    @classmethod
    def from_json(cls, value: Any) -> ShardFile:
        """Reads one; ValueError when it is none, or could be outside the folder."""
        try:
            shard = cls(str(value["name"]), int(value["bytes"]), str(value["xxh3"]))
        except (TypeError, KeyError) as error:
            raise ValueError(f"a shard is not described: {error!r}") from None
        if "/" in shard.name or shard.name.startswith("."):
            raise ValueError(f"{shard.name!r} is not the name of a shard")
        return shard

    def check(self, data: Data) -> None:
        """Raises ValueError unless ``data`` is this shard's content."""
        if len(data) != self.bytes:
            raise ValueError(f"{self.name} has {len(data)} bytes, its manifest says {self.bytes}")
        if checksum(data) != self.xxh3:
            raise ValueError(f"{self.name} does not match its checksum")


def checksum(data: Data) -> str:
    """The XXH3-128 of ``data``, as hexadecimal digits."""
    return xxh3_128_hexdigest(data)


def write_shards(
    store: Store, folder: str, total: int, memory: memoryview, parts: Sequence[Part]
) -> list[ShardFile]:
    """Writes one rank's shards, and returns them. Raises OSError.

    Args:
        store: where to.
        folder: the checkpoint's, in the store.
        total: shards of all ranks.
        memory: what holds their files.
        parts: which they are.
    """
    hashing = Lock()  # one thread at a time: the others' processors are for training

    def write(part: Part) -> ShardFile:
        with memory[part.offset : part.offset + part.size] as data:
            with hashing:
                file = ShardFile.of(part, total, data)
            store.write(f"{folder}/{file.name}", data)
        return file

    # One is hashed while another waits for the disk; object stores take several at once.
    threads = min(WRITERS, max(1, len(parts)))
    with ThreadPoolExecutor(threads, initializer=step_aside) as pool:
        return list(pool.map(write, parts))


def step_aside() -> None:
    """Lets this thread have a processor when those that train leave one."""
    with suppress(OSError, AttributeError):  # on Linux a thread has a niceness of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
