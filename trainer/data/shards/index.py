"""What a folder of shards has, as its ``index.json`` says it.

It is the index of MosaicML Streaming's format MDS, version 2. It comes from a bucket, so all of it
is looked at before any of it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from trainer.data.shards.columns import Column, decoder, size_of
from trainer.data.shards.failure import NO_SHARDS, ShardError
from trainer.rundir.untrusted import parse_json

NAME = "index.json"
LIMIT = 2**30  # bytes of an index
LARGEST = 2**32  # bytes of a shard: offsets in it have four
HASHES: Mapping[str, Any] = {
    name: getattr(xxhash, name) for name in ("xxh3_64", "xxh64", "xxh3_128", "xxh128", "xxh32")
} | {name: getattr(hashlib, name) for name in ("sha1", "sha256", "md5", "sha512", "blake2b")}


@dataclass(frozen=True)
class Shard:
    """A shard, as the index has it.

    Attributes:
        name: its path in the folder.
        size: bytes.
        samples: how many it has.
        hash: one of HASHES and what it gives; None where nothing is known.
    """

    name: str
    size: int
    samples: int
    hash: tuple[str, str] | None


@dataclass(frozen=True)
class Index:
    """An index.

    Attributes:
        columns: of every sample.
        shards: in their order.
        digest: of the index; equal if that is.
    """

    columns: tuple[Column, ...]
    shards: tuple[Shard, ...]
    digest: str

    @classmethod
    def parse(cls, data: bytes, where: str) -> Index:
        """That of the bytes of a file. Raises ShardError with the first thing that is wrong."""
        try:
            found = parse_json(data)
            if not isinstance(found, dict) or not isinstance(found.get("shards"), list):
                raise ValueError("it is no index of shards in the format MDS")
            if found.get("version") != 2:
                raise ValueError(f"version is {found.get('version')!r}, and 2 can be read")
            told = [_Told(place, one) for place, one in enumerate(found["shards"])]
            shards = tuple(one.shard() for one in told)
            if not sum(one.samples for one in shards):
                raise ValueError("it has no sample")
            columns = told[0].columns()
            for one in told[1:]:
                if one.columns() != columns:
                    raise ValueError(f"shards.{one.place}: its columns are not those of the first")
            for column in columns:
                try:
                    decoder(column.encoding)
                except ValueError as error:
                    raise ValueError(f"column {column.name!r}: {error}") from None
        except ValueError as error:
            raise ShardError(NO_SHARDS, f"{where}: {error}") from None
        return cls(columns, shards, hashlib.sha256(data).hexdigest()[:16])


class _Told:
    """A shard as JSON has it."""

    def __init__(self, place: int, value: Any) -> None:
        self.place = place
        self._value = value if isinstance(value, dict) else {}
        if self._get("format", str) != "mds" or self._get("version", int) != 2:
            raise ValueError(f"shards.{place}: it is not in the format MDS, version 2")
        if self._value.get("compression") or self._value.get("zip_data"):
            raise ValueError(
                f"shards.{place}: it is compressed; write the shards without compression"
            )

    def _get(self, name: str, kind: type, of: Any = None) -> Any:
        found = (self._value if of is None else of).get(name)
        if not isinstance(found, kind) or isinstance(found, bool):
            raise ValueError(f"shards.{self.place}: {name} is {found!r:.40}")
        return found

    def shard(self) -> Shard:
        raw = self._get("raw_data", dict)
        name, size = self._get("basename", str, raw), self._get("bytes", int, raw)
        samples = self._get("samples", int)
        parts = name.split("/")
        if "" in parts or ".." in parts or "." in parts or "\0" in name or "\\" in name:
            raise ValueError(f"shards.{self.place}: basename is {name!r:.40}, none in the folder")
        if not 0 < size < LARGEST or not 0 <= samples < size:
            raise ValueError(f"shards.{self.place}: {samples} samples in {size} bytes")
        hashes = raw.get("hashes") or {}
        if not isinstance(hashes, dict):
            raise ValueError(f"shards.{self.place}: hashes is {hashes!r:.40}")
        known = {name: one for name, one in hashes.items() if name in HASHES}
        best = next(((one, str(known[one])) for one in HASHES if one in known), None)
        return Shard(name, size, samples, best)

    def columns(self) -> tuple[Column, ...]:
        names, encodings = self._get("column_names", list), self._get("column_encodings", list)
        sizes = self._get("column_sizes", list)
        if not len(names) == len(encodings) == len(sizes) or not names:
            raise ValueError(f"shards.{self.place}: columns without name, encoding or size")
        found = []
        for name, encoding, size in zip(names, encodings, sizes, strict=True):
            if not isinstance(name, str) or not isinstance(encoding, str):
                raise ValueError(f"shards.{self.place}: a column {name!r:.40} of {encoding!r:.40}")
            if encoding == "pkl":
                raise ValueError(
                    f"column {name!r} is pickled, and what is unpickled can do anything; write it "
                    "with another encoding, such as json or ndarray"
                )
            fits = size is None or (type(size) is int and 0 < size < LARGEST)
            if not fits or size_of(encoding) not in (None, size):
                raise ValueError(f"column {name!r}: {encoding} does not have {size!r:.20} bytes")
            found.append(Column(name, encoding, size))
        return tuple(found)
