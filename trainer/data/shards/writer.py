"""Writes samples as shards: in the format MDS of MosaicML Streaming, which reads them, too."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from trainer.data.shards.columns import encoded, encoding_of, size_of
from trainer.data.shards.failure import ShardError
from trainer.data.shards.index import LARGEST, NAME
from trainer.rundir.store import Store

SIZE = 2**26  # bytes of a shard: MosaicML Streaming's own default
HASH = "xxh3_64"


def write_shards(
    samples: Iterable[Mapping[str, Any]], folder: str | Path, *, shard_size: int = SIZE
) -> int:
    """Writes samples into shards, and an index when all of them are there.

    Each file appears whole, and without the index it is no data set: what is broken off is begun
    anew. Values are numbers, texts, bytes, arrays or tensors, and what JSON can say; the first
    sample says which column has what. At most one shard is in memory.

    Args:
        samples: dicts, all with the same columns.
        folder: any fsspec URL, or a local path. It must not have an index.
        shard_size: bytes of a shard; a larger sample has one of its own.

    Returns how many samples were written. Raises ShardError for samples that are not alike, or none
    at all, and for a folder that has an index; OSError when it cannot be written.
    """
    store = Store(str(folder).rstrip("/"))
    if store.exists(NAME):
        raise ShardError("SW5181", f"{store.url} has shards already; name another folder")
    writing = _Writing(store, shard_size)
    for sample in samples:
        writing.add(sample)
    writing.flush()
    if not writing.samples:
        raise ShardError("SW5181", f"{store.url}: there is no sample to be written")
    index = {"shards": writing.shards, "version": 2}
    if not store.create(NAME, json.dumps(index, sort_keys=True).encode()):
        raise ShardError("SW5181", f"{store.url}: another process has written shards there")
    return writing.samples


class _Writing:
    """The shard that is being filled, and those before it."""

    def __init__(self, store: Store, size: int) -> None:
        self.samples = 0
        self.shards: list[dict[str, Any]] = []
        self._store = store
        self._size = size
        self._encodings: dict[str, str] = {}
        self._filled: list[bytes] = []
        self._bytes = 0

    def add(self, sample: Mapping[str, Any]) -> None:
        """Adds a sample; writes a shard, if it is full."""
        data = self._sample(sample)
        head = 4 + len(self._config())
        each = 4 + len(data)
        if self._filled and head + 4 + self._bytes + each > min(self._size, LARGEST - 1):
            self.flush()
        if head + 4 + each >= LARGEST:
            raise self._wrong(f"it has {len(data)} bytes, and a shard less than {LARGEST}")
        self._filled.append(data)
        self._bytes += each
        self.samples += 1

    def flush(self) -> None:
        """Writes what there is as a shard."""
        if not self._filled:
            return
        config = self._config()
        sizes = np.asarray([0, *map(len, self._filled)], np.int64)
        offsets = np.cumsum(sizes) + 4 + 4 * len(sizes) + len(config)
        head = np.asarray([len(self._filled), *offsets], "<u4").tobytes()
        data = b"".join((head, config, *self._filled))
        if data.endswith(b"\r"):
            # gcsfs sends small objects between lines of their own, of whose ends that becomes one.
            data += b"\0"
        name = f"shard.{len(self.shards):05}.mds"
        self._store.write(name, data)
        about = {
            "basename": name,
            "bytes": len(data),
            "hashes": {HASH: xxhash.xxh3_64(data).hexdigest()},
        }
        self.shards.append(
            {**self._about(), "raw_data": about, "samples": len(self._filled), "zip_data": None}
        )
        self._filled, self._bytes = [], 0

    def _sample(self, sample: Mapping[str, Any]) -> bytes:
        if not isinstance(sample, Mapping) or not sample:
            raise self._wrong(f"it is {sample!r:.40}, and no dict with columns")
        names = sorted(sample)
        if not self._encodings:
            self._encodings = {name: self._encoding(name, sample[name]) for name in names}
        if names != [*self._encodings]:
            raise self._wrong(f"it has the columns {names}, and the first one {[*self._encodings]}")
        values = []
        for name, encoding in self._encodings.items():
            try:
                values.append(encoded(encoding, sample[name]))
            except (TypeError, ValueError, OverflowError) as error:
                raise self._wrong(f"{name!r} cannot be written: {error}") from error
        varying = [
            len(value)
            for value, encoding in zip(values, self._encodings.values(), strict=True)
            if size_of(encoding) is None
        ]
        return b"".join((np.asarray(varying, "<u4").tobytes(), *values))

    def _encoding(self, name: str, value: Any) -> str:
        try:
            return encoding_of(value)
        except TypeError as error:
            raise self._wrong(f"{name!r} cannot be written: it is {error}") from None

    def _wrong(self, text: str) -> ShardError:
        return ShardError("SW5181", f"sample {self.samples}: {text}")

    def _config(self) -> bytes:
        return json.dumps(self._about(), sort_keys=True).encode()

    def _about(self) -> dict[str, Any]:
        """What the index says of each shard, and each shard of itself."""
        return {
            "column_encodings": [*self._encodings.values()],
            "column_names": [*self._encodings],
            "column_sizes": [size_of(one) for one in self._encodings.values()],
            "compression": None,
            "format": "mds",
            "hashes": [HASH],
            "size_limit": self._size,
            "version": 2,
        }
