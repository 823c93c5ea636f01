"""A folder of shards in the emulated Cloud Storage, and what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gcsfs.retry import HttpError

from tests.storage import StorageServer
from trainer.data import Shards, write_shards
from trainer.data.shards.source import Source
from trainer.rundir.retry import ONCE, Backoff
from trainer.rundir.store import Store

SAMPLES, SHARD = 60, 500  # samples, and bytes of a shard


def samples(count: int = SAMPLES) -> Iterator[dict[str, Any]]:
    """Samples that know their number."""
    return ({"number": number, "text": f"sample {number}"} for number in range(count))


class Refusing:
    """A file system that refuses to read a part of a file, as gcsfs says it.

    Args:
        fs: what it is otherwise.
        times: how often it does.
        status: with which status.
    """

    def __init__(self, fs: Any, times: int, status: int) -> None:
        self.left = times
        self._fs, self._status = fs, status

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fs, name)

    def cat_file(self, path: str, **part: Any) -> bytes:
        if self.left:
            self.left -= 1
            raise HttpError({"code": self._status, "message": "later, please"})
        data: bytes = self._fs.cat_file(path, **part)
        return data


class Shelf:
    """Shards in a bucket.

    Attributes:
        url: the folder.
        cache: where they are cached.
        server: what serves them.
        store: the same folder, to change it.
    """

    def __init__(self, server: StorageServer, url: str, folder: Path) -> None:
        self.server, self.url = server, url
        self.cache = folder / "cache"
        self.store = Store(url)
        write_shards(samples(), url, shard_size=SHARD)

    def open(self, **options: Any) -> Shards:
        """The data set."""
        return Shards(self.url, **{"folder": self.cache, "cache": "1MiB", **options})

    def refusing(self, times: int, status: int, patience: float) -> Shards:
        """The data set in a bucket that refuses some requests with a status.

        gcsfs itself tries for half a minute before it says so.
        """
        data = self.open()
        data._source = Source(self.url, Backoff(limit=0.0), patience)
        data._source._opened = Store(self.url, Refusing(self.store.fs, times, status), ONCE)
        return data

    def cached(self) -> list[str]:
        """The names of what is in the cache."""
        return sorted(one.name for one in self.cache.glob("swell-shards/*/*"))
