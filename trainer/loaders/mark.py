"""Marks in data that has no length: places that a reader can go to, and know again."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

OTHER_SAMPLES = "SW5185"
STEADY = (
    "each worker and loader reads the source by itself, and again after a loss, so it must give "
    "the same samples in the same order: fix what is random by a seed of its own, sort lists of "
    "files, and leave shuffling to Stream(…, shuffle=1000)"
)


@dataclass(frozen=True)
class Mark:
    """A place in the data.

    Attributes:
        place: samples that come before it.
        passes: times that the source was read to its end before it.
        inside: samples of this pass that come before it.
        digest: of the samples that come there.
        state: the source's ``state_dict()`` there, plain values; None without one.
    """

    place: int
    passes: int
    inside: int
    digest: int
    state: Any = None

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
        """The inverse of ``plain``."""
        return cls(**plain)


def fingerprint(sample: Any) -> int:
    """A digest of a sample, below 2**52, the same in every process that has the same sample.

    It is of numbers, texts, bytes, arrays and CPU tensors, and dicts, lists and tuples of them; of
    anything else only the class counts, as what is inside may be told in another order elsewhere.
    """
    digest = hashlib.blake2b(digest_size=8)
    _add(digest, sample)
    return int.from_bytes(digest.digest(), "big") >> 12


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
