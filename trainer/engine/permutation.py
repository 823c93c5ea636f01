"""Permutations of a data set's samples: where each of them comes in an epoch.

``Permutation`` is computed place by place, so that a data set of any length costs no memory and no
pause: a few microseconds for a batch, wherever in an epoch it is. It is a Feistel network over a
rectangle that is hardly larger than the data set. A place is a row and a column; in each round the
column is shifted by what the row is scrambled to, or the row by what the column is. Each such
round can be undone, so no two places meet. What leaves the data set goes through it again, until it
is inside ("cycle walking").

It is as good as random to statistics, and no secret to anybody who looks for it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.engine.digest import scramble

ROUNDS = 12  # with 8, the orders of five samples are not equally frequent; with 10 they are
_HALF = np.uint64(32)


class Permutation:
    """A permutation of 0, 1, … ``samples`` - 1.

    Args:
        samples: how many there are; at least 1, and below 2**62.
        key: which permutation of them.
    """

    def __init__(self, samples: int, key: str) -> None:
        # An even number of columns: of odd ones alone, half of all permutations would never come.
        bits = max(1, (samples - 1).bit_length() // 2)
        self._samples = np.uint64(samples)
        self._bits = np.uint64(bits)
        self._columns = np.uint64((1 << bits) - 1)
        self._rows = np.uint64(-(-samples >> bits))
        digests = [hashlib.sha256(f"{key}/{number}".encode()).digest() for number in range(ROUNDS)]
        self._keys = [np.uint64(int.from_bytes(one[:8], "big")) for one in digests]

    def take(self, start: int, stop: int) -> Tensor:
        """Which samples come at the places from ``start`` to before ``stop``: int64, shape [n]."""
        found = self._permuted(np.arange(start, stop, dtype=np.uint64))
        while len(outside := np.flatnonzero(found >= self._samples)):
            found[outside] = self._permuted(found[outside])
        return torch.from_numpy(found.view(np.int64))

    def _permuted(self, places: NDArray[np.uint64]) -> NDArray[np.uint64]:
        columns, rows = places & self._columns, places >> self._bits
        for one, other in zip(self._keys[::2], self._keys[1::2], strict=True):
            columns += scramble(rows + one) >> _HALF
            columns &= self._columns
            rows += (scramble(columns + other) >> _HALF) * self._rows >> _HALF
            rows -= self._rows * (rows >= self._rows)
        found: NDArray[np.uint64] = rows << self._bits | columns
        return found


class Permutations:
    """Permutations of several stretches, each of its own length: all of them at once.

    They are as ``Permutation`` makes them, but for their keys.

    Args:
        sizes: how many samples each has, at least 1: int64, shape [m].
        keys: a number for each, no two alike: int64, shape [m].
        key: which permutations of them.
    """

    def __init__(self, sizes: NDArray[np.int64], keys: NDArray[np.int64], key: str) -> None:
        bits = np.maximum(1, np.frexp((sizes - 1).astype(np.float64))[1] // 2).astype(np.uint64)
        self._sizes = sizes.astype(np.uint64)
        self._bits = bits
        self._columns = (np.uint64(1) << bits) - np.uint64(1)
        self._rows = (self._sizes + self._columns) >> bits
        first = np.uint64(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
        own = scramble(keys.astype(np.uint64) + first)
        self._keys = [scramble(own + np.uint64(number)) for number in range(1, ROUNDS + 1)]

    def take(self, which: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which sample of its stretch comes at each place: int64, shape [n].

        Args:
            which: the stretches, int64, shape [n].
            places: in these, likewise.
        """
        found = self._permuted(which, places.astype(np.uint64))
        while len(outside := np.flatnonzero(found >= self._sizes[which])):
            found[outside] = self._permuted(which[outside], found[outside])
        return found.view(np.int64)

    def _permuted(self, which: NDArray[np.int64], places: NDArray[np.uint64]) -> NDArray[np.uint64]:
        bits, mask, height = self._bits[which], self._columns[which], self._rows[which]
        columns, rows = places & mask, places >> bits
        for one, other in zip(self._keys[::2], self._keys[1::2], strict=True):
            columns += scramble(rows + one[which]) >> _HALF
            columns &= mask
            rows += (scramble(columns + other[which]) >> _HALF) * height >> _HALF
            rows -= height * (rows >= height)
        found: NDArray[np.uint64] = rows << bits | columns
        return found


@lru_cache(maxsize=4)
def permutation(samples: int, key: str) -> Permutation:
    """The permutation of that key."""
    return Permutation(samples, key)


@lru_cache(maxsize=2)  # an epoch, and the next one when batches are made ahead
def shuffled(samples: int, key: str) -> Tensor:
    """A whole permutation by torch, int64, shape [samples]: it takes as much memory, and time."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randperm(samples, generator=generator, device="cpu")
