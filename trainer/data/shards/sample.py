"""Samples of their bytes: first the sizes of the columns that vary, then what each column has."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from trainer.data.shards.columns import Column, decoder


class Decoder:
    """Makes samples of bytes. What follows from the columns alone is found out once.

    Args:
        columns: of every sample.

    Raises ValueError for an encoding that cannot be read.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = [(one.name, decoder(one.encoding), one.size) for one in columns]
        self._sizes = struct.Struct(f"<{sum(one.size is None for one in columns)}I")
        self._fixed = self._sizes.size + sum(one.size or 0 for one in columns)

    def decode(self, data: bytes) -> dict[str, Any]:
        """The sample. Raises ValueError, or what else a decoder raises for bytes that are none."""
        at = self._sizes.size
        varying = self._sizes.unpack(data[:at]) if len(data) >= at else ()
        wanted = self._fixed + sum(varying)
        if len(data) != wanted:
            raise ValueError(f"it has {len(data)} bytes, and its columns {wanted}")
        sizes, sample = iter(varying), {}
        for name, decode, size in self._columns:
            end = at + (next(sizes) if size is None else size)
            sample[name] = decode(data[at:end])
            at = end
        return sample
