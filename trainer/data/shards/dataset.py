"""``Shards``: a data set of samples that lie in shards, in a bucket or a folder."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.shards.cache import Cache
from trainer.data.shards.failure import CHANGED, NO_CACHE, ShardError
from trainer.data.shards.fetcher import Fetcher
from trainer.data.shards.reader import Reader
from trainer.data.shards.sample import Decoder
from trainer.data.shards.source import Source

CACHE = "20GiB"


class Shards:
    """Samples in shards, in the format MDS of MosaicML Streaming; see docs/shards.md.

    A map-style data set: ``shards[7]`` is a dict of the columns of sample 7, or what ``decode``
    makes of it. Given to a task, or to ``elastic.batches``, its samples come in an order in which
    each worker reads few of the shards, and these are fetched ahead of the steps. It can be
    pickled; what it has open belongs to one process.

    Args:
        url: the folder that has ``index.json``: any fsspec URL, or a local path, which is read
            where it is.
        cache: how much the cache on this VM may hold, as ``20GiB`` or in bytes.
        folder: where the cache is; None for the folder of temporary files. All ranks of a VM, and
            all data sets, that name one folder share it.
        decode: called with the dict of each sample.
        lanes: from how many shards a batch takes samples at least, if it is so large. A worker
            reads a part of them, so more VMs than lanes read the same shards.
        block: shards whose samples are mixed in each lane.

    Attributes:
        shard_sizes: the samples of each shard.

    Raises ShardError when there is no index, or none that can be read.
    """

    def __init__(
        self,
        url: str | Path,
        *,
        cache: str | int = CACHE,
        folder: str | Path | None = None,
        decode: Callable[[dict[str, Any]], Any] | None = None,
        lanes: int = 32,
        block: int = 2,
    ) -> None:
        if lanes < 1 or block < 1:
            raise ShardError(NO_CACHE, f"lanes={lanes}, block={block}: write at least 1")
        self.lanes, self.block = lanes, block
        self._source = Source(str(url).rstrip("/"))
        self._cache = Cache(folder, cache)
        self._decode = decode
        self._index = self._source.index()
        self.shard_sizes: Sequence[int] = [one.samples for one in self._index.shards]
        self._ends = list(accumulate(self.shard_sizes))
        self._borders = np.asarray(self._ends, np.int64)  # to look up many at once
        self._reader: Reader | None = None
        self._fetcher: Fetcher | None = None
        self._decoder: Decoder | None = None
        self._owner = os.getpid()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        """The sample ``index``. Raises IndexError beyond the end, and ShardError."""
        if not 0 <= index < self._ends[-1]:
            raise IndexError(f"sample {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        place = index - self._ends[number] + self.shard_sizes[number]
        data = self._reading().read(number, place, index)
        if self._decoder is None:
            self._decoder = Decoder(self._index.columns)
        try:
            sample = self._decoder.decode(data)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            shard = self._index.shards[number]
            raise ShardError(
                CHANGED,
                f"shard {self._source.url}/{shard.name}: sample {index}, its {place}th, cannot be "
                f"decoded: {error}; write the shards anew",
            ) from error
        return sample if self._decode is None else self._decode(sample)

    @property
    def samples_identity(self) -> str | None:
        """The same where the index is, which has the checksums of all shards.

        None where it has not, and each machine has shards of its own: samples must be looked at.
        """
        summed = all(one.hash is not None for one in self._index.shards)
        return self._index.digest if summed or self.fetches else None

    @property
    def fetches(self) -> bool:
        """Whether shards are fetched before they can be read."""
        return not self._source.store.is_local

    def shards_of(self, indices: Any) -> Any:
        """The shards that have some samples: int64, shape [n], in ascending order.

        Args:
            indices: int64, shape [m].
        """
        return np.unique(np.searchsorted(self._borders, np.asarray(indices), "right"))

    def expect(self, shards: Sequence[int]) -> None:
        """From now on these shards are needed soon, the first of them first: they are fetched."""
        if not self.fetches:
            return
        if self._owner != os.getpid():
            self._forget()
        if self._fetcher is None:
            self._fetcher = Fetcher(self._reader_of_its_own())
        # Each rank of this VM has a part of the cache for what is to come, and some is left.
        ranks = int(os.environ.get("HOROVOD_LOCAL_SIZE", "1"))
        self._fetcher.want(shards, self._cache.limit * 3 // (4 * ranks))

    def close(self) -> None:
        """Closes what is open, and fetches nothing any more."""
        if self._reader is not None and self._owner == os.getpid():
            self._reader.close()
        if self._fetcher is not None and self._owner == os.getpid():
            self._fetcher.close()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_reader": None, "_fetcher": None, "_decoder": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._source.load_client()  # once, before loaders are forked

    def _forget(self) -> None:
        """Nothing is open: another process has what was."""
        self._reader, self._fetcher, self._owner = None, None, os.getpid()

    def _reading(self) -> Reader:
        """What this process reads with; one that was forked does not share it."""
        if self._owner != os.getpid():
            self._forget()
        if self._reader is None:
            self._reader = self._reader_of_its_own()
        return self._reader

    def _reader_of_its_own(self) -> Reader:
        cache = self._cache if self.fetches else None
        about = f"{self._source.url}\0{self._index.digest}"
        prefix = hashlib.sha256(about.encode()).hexdigest()[:16]
        return Reader(self._source, self._index, cache, prefix)
