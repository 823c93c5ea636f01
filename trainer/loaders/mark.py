"""Marks in data that has no length: places that a reader can go to, and know again."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

OTHER_SAMPLES = "SW5185"
_MASK, _FACTOR = 2**52 - 1, 0x9E3779B97F4A7C15
STEADY = (
    "each worker and loader reads the source by itself, and again after a loss, so it must give "
    "the same samples in the same order: fix what is random by a seed of its own, sort lists of "
    "files, and leave shuffling to Stream(…, shuffle=1000)"
)

# The digests of what comes at a place, and of all that has come before it, if that is known.
Seen = tuple[int, int | None]


@dataclass(frozen=True)
class Mark:
    """A place in the data.

    Attributes:
        place: samples that come before it.
        passes: times that the source was read to its end before it.
        inside: samples of this pass that come before it.
        digest: of the samples that come there.
        state: the source's ``state_dict()`` there, plain values; None without one.
        passed: a digest of all samples that come before it; None where whoever has read there has
            not read, or been told, all of them.
        begun: that of all samples before this pass.
    """

    place: int
    passes: int
    inside: int
    digest: int
    state: Any = None
    passed: int | None = None
    begun: int | None = None

    @property
    def reach(self) -> int:
        """From which place it is read on: without a state, from where its pass begins."""
        return self.place if self.state is not None else self.place - self.inside

    @property
    def plain(self) -> dict[str, Any]:
        """As it travels, and is part of a checkpoint."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Mark:
        """The inverse of ``plain``; what an older version has not written is not known."""
        return cls(**{one.name: plain[one.name] for one in fields(cls) if one.name in plain})

    @property
    def seen(self) -> Seen:
        """What was read there."""
        return self.digest, self.passed

    def with_more(self, other: Mark) -> Mark:
        """The same, with what another mark of this place knows besides."""
        more = {
            name: getattr(other, name)
            for name in ("state", "passed", "begun")
            if getattr(self, name) is None
        }
        return replace(self, **more)


def fingerprint(sample: Any) -> int:
    """A digest of a sample, below 2**52, the same in every process that has the same sample.

    It is of numbers, texts, bytes, arrays and CPU tensors, and dicts, lists and tuples of them; of
    anything else only the class counts, as what is inside may be told in another order elsewhere.
    """
    digest = hashlib.blake2b(digest_size=8)
    _add(digest, sample)
    return int.from_bytes(digest.digest(), "big") >> 12


def passed_by(before: int, sample: Any) -> int:
    """The digest of the samples before a place, with one more: a number below 2**52."""
    digest = xxhash.xxh3_64()
    _add(digest, sample)
    return (before * _FACTOR + digest.intdigest()) & _MASK


def differ(one: Seen, other: Seen) -> bool:
    """Whether two have read unlike samples at a place, or before it."""
    known = None not in (one[1], other[1])
    return one[0] != other[0] or (known and one[1] != other[1])


def _add(digest: Any, value: Any) -> None:
    kind = type(value).__qualname__
    if isinstance(value, dict):
        digest.update(f"{kind}:{len(value)};".encode())
        for key, one in value.items():
            _add(digest, key)
            _add(digest, one)
    elif isinstance(value, list | tuple):
        digest.update(f"{kind}:{len(value)};".encode())
        for one in value:
            _add(digest, one)
    elif isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        digest.update(f"{kind}:{value.dtype}{value.shape};".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Tensor) and value.device.type == "cpu" and not value.is_sparse:
        digest.update(f"{kind}:{value.dtype}{tuple(value.shape)};".encode())
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().tobytes())
    elif isinstance(value, bytes | bytearray):
        digest.update(f"{kind}:{len(value)};".encode() + bytes(value))
    elif value is None or isinstance(value, bool | int | float | complex | str):
        digest.update(f"{kind}:{value!r};".encode())
    else:
        digest.update(f"{kind};".encode())
