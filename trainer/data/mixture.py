"""Several data sets mixed by weights, in an order that is exact and computed by place.

    Mixture({"web": web, "code": code}, {"web": 0.7, "code": 0.3})

In each block of 1000 samples every data set has its part, rounded to whole samples so that they sum
up (by largest remainder: those that lose most by rounding down get one more), in an order that the
seed fixes. Of each data set all samples are used once, shuffled, before any comes again. So which
sample comes where is known without reading, and without a state: a mixture goes on in its middle at
no cost, in any world.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.engine.permutation import permutation
from trainer.loaders.mark import Mark, fingerprint
from trainer.rundir.usererror import Unusable, UserError

BLOCK = 1000  # samples
AT_ONCE = 256  # samples of a data set whose order is computed together
_WRONG = "SW5189"


class OtherMixture(UserError, RuntimeError):
    """A run that was begun with one mixture goes on with another."""


class Mixture:
    """Samples of several data sets, by their places; it has no end.

    Args:
        sources: data sets with a length, by name.
        weights: of each, in any unit: how often its samples come, and not how large it is.
        seed: fixes the order.
        block: samples in which the weights hold; more are more exact.

    Attributes:
        every: places between two marks; whoever trains sets it to the batch.
        counts: how many of a block are of each.

    Raises Unusable for sources and weights that cannot be mixed.
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        weights: Mapping[str, float],
        seed: int = 0,
        block: int = BLOCK,
    ) -> None:
        if not sources or sources.keys() != weights.keys():
            raise Unusable(
                _WRONG,
                f"a mixture of {_listed(sources)} with weights of {_listed(weights)}: give each "
                "data set a weight, under the same name",
            )
        for name, source in sources.items():
            if not (hasattr(source, "__len__") and hasattr(source, "__getitem__") and len(source)):
                raise Unusable(
                    _WRONG,
                    f"{name} cannot be mixed: it is empty, or has no length; what can only be "
                    "iterated is mixed by what reads it (datasets.interleave_datasets, or a "
                    "function of your own)",
                )
        self.every = 1
        self.counts = apportioned(weights, block)
        self._sources = [*sources.values()]
        self._names = [*sources]
        self._seed = seed
        self._block = block
        lengths = [len(one) for one in self._sources]
        self._digest = fingerprint([self._names, lengths, [*self.counts.values()], seed, block])
        self._told = -1  # the place of the newest mark
        self._new: list[Mark] = []
        self._schedule = lru_cache(maxsize=4)(self._scheduled)
        self._shuffled: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_schedule": None, "_shuffled": {}, "_new": [], "_told": -1}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._schedule = lru_cache(maxsize=4)(self._scheduled)

    @property
    def samples_of(self) -> list[Any]:
        """The data sets whose samples it has."""
        return self._sources

    def source_of(self, place: int) -> tuple[str, int]:
        """Which data set has the sample at a place, by name, and which sample of it that is."""
        block, inside = divmod(place, self._block)
        which, before = self._schedule(block)
        number = int(which[inside])
        name = self._names[number]
        count = block * self.counts[name] + int(before[inside])
        passes, at = divmod(count, len(self._sources[number]))
        return name, self._at(number, passes, at)

    def __getitem__(self, place: int) -> Any:
        """The sample at a place, from 0."""
        due = place - place % self.every
        if due != self._told:
            self._told = due
            self._new.append(Mark(due, 0, 0, self._digest, {}))
        name, index = self.source_of(place)
        return self._sources[self._names.index(name)][index]

    def seek(self, mark: Mark | None, oldest: int) -> None:
        """Any place can be read. Raises OtherMixture for the mark of another mixture."""
        if mark is not None and mark.digest != self._digest:
            raise OtherMixture(
                "SW5190",
                "the mixture is another one than that with which this run was begun, or than "
                "another worker's: names, lengths, weights, seed or block differ, so samples would "
                "be left out, and others come twice; set them back, or begin a new run from the "
                "checkpoint's weights",
            )

    def marks(self) -> list[Mark]:
        """The marks of the batches that samples were taken of since this was called."""
        found, self._new = self._new, []
        return found

    def _scheduled(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each place of a block: the number of its source, and how many it had before."""
        parts = np.repeat(np.arange(len(self._names)), [*self.counts.values()])
        order = permutation(self._block, f"{self._seed}/mixture/{block}").take(0, self._block)
        which = parts[order.numpy()]
        before = np.empty(self._block, dtype=np.int64)
        for number in range(len(self._names)):
            places = np.flatnonzero(which == number)
            before[places] = np.arange(len(places))
        return which, before

    def _at(self, number: int, passes: int, at: int) -> int:
        """Which sample comes at a place in a pass over a source."""
        length = len(self._sources[number])
        start = at - at % AT_ONCE
        known, indices = self._shuffled.get(number, (-1, np.empty(0, dtype=np.int64)))
        if known != passes * length + start:
            order = permutation(length, f"{self._seed}/{self._names[number]}/{passes}")
            indices = order.take(start, min(start + AT_ONCE, length)).numpy()
            self._shuffled[number] = passes * length + start, indices
        return int(indices[at - start])


def apportioned(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Splits ``total`` by weights, by largest remainder; of equal ones the first get more.

    Raises Unusable for weights that are not positive, or too small to get one.
    """
    if not all(0 < weight < float("inf") for weight in weights.values()):
        raise Unusable(_WRONG, f"weights must be numbers above 0, and are {dict(weights)}")
    whole = sum(weights.values())
    exact = {name: weight / whole * total for name, weight in weights.items()}
    counts = {name: int(one) for name, one in exact.items()}
    rest = total - sum(counts.values())
    for name in sorted(exact, key=lambda one: counts[one] - exact[one])[:rest]:
        counts[name] += 1
    for name, count in counts.items():
        if not count:
            raise Unusable(
                _WRONG,
                f"the weight of {name} comes to no sample in a block of {total}; leave it out, or "
                f"take larger blocks: block={max(total + 1, round(2 * whole / weights[name]))}",
            )
    return counts


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "nothing"
