"""The order of samples that lie in shards: each shard is read by as few workers as possible.

A step takes its samples from several *lanes*, always the same number from each, and in the order of
the lanes; so a rank, whose share is a stretch of the batch, goes through a few lanes of its own,
and another world deals the same lanes anew. Of each epoch the shards are permuted, and every lane
has a stretch of them; a shard that two lanes share at their border is one of a few. Within a lane
the samples of ``block`` shards that follow each other are permuted together. So a batch has samples
of lanes times block shards, and that many are in use at a time in the whole world.

All of it is computed by place: an epoch costs the permutation of its shards, and a batch one of a
block for each lane. It is the first version of this order; another one needs another version of
trainer.engine.data, as runs go on in theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.engine.permutation import Permutation, Permutations

_Numbers = NDArray[np.int64]
LANES, BLOCK = 32, 2  # what a data set has that says nothing else; a part of the version


class ShardOrder:
    """How the samples of shards are ordered in each epoch.

    Args:
        sizes: the samples of each shard; those of the first have the first numbers. A shard may
            have none, but not all of them.
        lanes: most of them; there are fewer where a batch has fewer samples, or where lanes would
            have less than a block.
        block: shards whose samples are permuted together.

    Raises ValueError for fewer than one lane, or shard in a block.
    """

    def __init__(self, sizes: Sequence[int], lanes: int = LANES, block: int = BLOCK) -> None:
        if lanes < 1 or block < 1:
            raise ValueError(f"lanes={lanes}, block={block}: write at least 1")
        every = np.asarray(sizes, np.int64)
        self._first = (np.cumsum(every) - every)[every > 0]
        self._sizes = every[every > 0]
        self._samples = int(every.sum())
        self._most, self._block = lanes, block
        self._epoch = lru_cache(maxsize=2)(self._laid_out)  # an epoch, and the next one

    @classmethod
    def of(cls, dataset: Any) -> ShardOrder | None:
        """That of a data set; None for one that is not of shards, or only of a part of them."""
        sizes = getattr(dataset, "shard_sizes", None)
        if sizes is None or sum(sizes) != len(dataset):
            return None
        lanes, block = getattr(dataset, "lanes", LANES), getattr(dataset, "block", BLOCK)
        return cls(sizes, lanes, block)

    @property
    def told(self) -> str:
        """What a manifest says of it: equal where the order is."""
        digest = hashlib.sha256(self._sizes.tobytes()).hexdigest()[:12]
        return f"{len(self._sizes)} shards ({digest}), {self._most} lanes, blocks of {self._block}"

    def take(self, key: str, batch: int, start: int, stop: int) -> Tensor:
        """Which samples come at the places [start, stop) of an epoch: int64, shape [n].

        Args:
            key: of the epoch.
            batch: samples of a step; the last one of an epoch may have fewer.
        """
        if start == stop:
            return torch.empty(0, dtype=torch.int64, device="cpu")
        epoch = self._epoch(key, batch)
        steps, within = np.divmod(np.arange(start, stop, dtype=np.int64), batch)
        whole = self._samples // batch
        lanes = np.searchsorted(epoch.bounds, within, "right") - 1
        begun = epoch.bounds[lanes]
        last = steps == whole
        if last.any():
            lanes[last] = np.searchsorted(epoch.last, within[last], "right") - 1
            begun[last] = epoch.last[lanes[last]]
        places = epoch.lanes[lanes] + steps * np.diff(epoch.bounds)[lanes] + within - begun
        return torch.from_numpy(epoch.samples(places, key))

    def _laid_out(self, key: str, batch: int) -> _Epoch:
        count = min(self._most, batch, max(1, len(self._sizes) // self._block))
        cuts = np.arange(count + 1, dtype=np.int64)
        whole, rest = divmod(self._samples, batch)
        bounds, last = batch * cuts // count, rest * cuts // count
        lanes = whole * bounds + last  # where each begins, and the end
        order = Permutation(len(self._sizes), f"{key}/shards").take(0, len(self._sizes)).numpy()
        sizes = self._sizes[order]
        shards = np.cumsum(sizes) - sizes
        # A piece is a shard, or what a lane has of one. Both are sorted, and lanes are few: nothing
        # is looked for as often as there are shards.
        before = np.searchsorted(shards, lanes[:-1], "right") - 1
        inside = np.unique(lanes[:-1][shards[before] != lanes[:-1]])
        pieces = np.insert(shards, np.searchsorted(shards, inside), inside)
        of = np.arange(len(pieces))
        for at in np.searchsorted(pieces, inside):
            of[at:] -= 1  # the shard before goes on
        first = self._first[order][of] + pieces - shards[of]
        begun = np.searchsorted(pieces, lanes)
        number = np.arange(len(pieces)) - np.repeat(begun[:-1], np.diff(begun))
        blocks = np.append(pieces[number % self._block == 0], self._samples)
        return _Epoch(bounds, last, lanes, pieces, first, blocks)


@dataclass(frozen=True)
class _Epoch:
    """An epoch's samples as they lie in the lanes, one lane after another.

    Attributes:
        bounds: where in a batch each lane's part begins, and the end; of the ``last``, likewise.
        lanes: where each lane begins, and the end.
        pieces: where each piece begins.
        first: the first sample of each.
        blocks: where each block begins, and the end.
    """

    bounds: _Numbers
    last: _Numbers
    lanes: _Numbers
    pieces: _Numbers
    first: _Numbers
    blocks: _Numbers

    def samples(self, places: _Numbers, key: str) -> _Numbers:
        """The samples at some places."""
        blocks = np.searchsorted(self.blocks, places, "right") - 1
        found, which = np.unique(blocks, return_inverse=True)
        begins = self.blocks[found]
        mixed = Permutations(self.blocks[found + 1] - begins, begins, key)
        inside = begins[which] + mixed.take(which, places - begins[which])
        pieces = np.searchsorted(self.pieces, inside, "right") - 1
        return self.first[pieces] + inside - self.pieces[pieces]
