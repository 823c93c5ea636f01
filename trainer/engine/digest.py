"""64-bit digests of tensors and values: equal for equal bits, and as good as never otherwise.

A tensor's digest is a sum over halves of its 8-byte words, each times a pseudo-random odd number of
8 bytes, modulo 2**64: multilinear hashing (Lemire and Kaser, "Strongly universal string hashing is
fast", 2014). It is exact wherever and in whatever order it is summed, costs one pass over the
memory, and tells where in the tensor a word stands. Two tensors that differ have the same digest
once in 2**32 times, whatever the difference is. With one factor for a whole word that would not
hold: its highest bits meet the lowest of the factor alone, so that two signs that flip cancel out.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MASK = 2**64 - 1
_BLOCK = 2**16  # words that have factors of their own; the blocks have one each, too
_ROWS = 16  # blocks that are taken at once: 8 MiB
_PRIME = 0x9E3779B97F4A7C15  # odd, its bits as good as random: that of the golden ratio
_ONE, _SHIFT, _HALF = np.uint64(1), np.uint64(29), np.uint64(32)
_FIRST, _SECOND = np.uint64(_PRIME), np.uint64(0xBF58476D1CE4E5B9)


def digest(tensor: Tensor) -> Tensor:
    """The digest of a tensor's bits: int64, shape [], on the tensor's device."""
    words = _words(tensor)
    factors, others = _factors(words.device)
    whole = len(words) // _BLOCK * _BLOCK
    total = _sums(words[whole:].view(1, -1), factors, others)[0]
    if whole:
        blocks = words[:whole].view(-1, _BLOCK)
        sums = torch.cat([_sums(part, factors, others) for part in blocks.split(_ROWS)])
        for start in range(0, len(sums), _BLOCK):
            part = sums[start : start + _BLOCK]
            total = total * 3 + (part * factors[: len(part)]).sum()
    return total


def digest_of(value: Any) -> int:
    """The digest of a plain value, by its text."""
    return int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:8], "big")


def combined(digests: list[int]) -> int:
    """One digest of several; their order counts."""
    total = len(digests)
    for one in digests:
        total = (total * _PRIME + one) & MASK
    return total


def digest_of_numbers(numbers: Tensor) -> int:
    """The digest of a *set* of numbers: int64, any shape. Those of parts add up, modulo 2**64."""
    return int(np.add.reduce(_mixed(numbers), axis=None, dtype=np.uint64))


class Prefixes:
    """The digests of all slices of a sequence of numbers, each in a moment.

    Args:
        numbers: int64, shape [n].
    """

    def __init__(self, numbers: Tensor) -> None:
        self._sums = np.cumsum(_mixed(numbers), dtype=np.uint64)

    def digest(self, start: int, stop: int) -> int:
        """The digest of the numbers from ``start`` to before ``stop``."""
        before = int(self._sums[start - 1]) if start else 0
        return (int(self._sums[stop - 1]) - before) & MASK if stop > start else 0


def scramble(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Makes each number, in its place, one whose bits are as good as random."""
    words *= _FIRST
    words ^= words >> _SHIFT
    words *= _SECOND
    words ^= words >> _HALF
    return words


def _mixed(numbers: Tensor) -> NDArray[np.uint64]:
    return scramble(numbers.numpy().view(np.uint64) + _ONE)


def _sums(rows: Tensor, factors: Tensor, others: Tensor) -> Tensor:
    """The sum of each row, int64 of shape [rows].

    A whole word times its factor, and its upper half times its other one, are the lower half times
    the one, and the upper half times a third.
    """
    size = rows.shape[1]
    upper = rows >> 32
    if rows.device.type == "cpu":
        return torch.mv(rows, factors[:size]) + torch.mv(upper, others[:size])
    upper *= others[:size]  # mv has no int64 there
    return upper.add_(rows * factors[:size]).sum(1)


def _words(tensor: Tensor) -> Tensor:
    """A tensor's bits as int64, shape [n]; zeros fill the last word."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    if flat.storage_offset() % 8 or flat.data_ptr() % 8:
        flat = flat.clone()
    rest = len(flat) % 8
    if rest:
        flat = torch.cat([flat, flat.new_zeros(8 - rest)])
    return flat.view(torch.int64)


@lru_cache(maxsize=4)
def _factors(device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator("cpu").manual_seed(1)
    limit = 2**62
    drawn = torch.randint(-limit, limit, (2, _BLOCK), generator=generator, device="cpu")
    factors, others = (drawn * 2 + 1).to(device)
    return factors, others
