"""Units: the smallest parts of a global batch, the same ones in every world.

A worker computes whole units, one after another. Each has random numbers of its own, seeded by
(seed, step, unit), and batch statistics of its own; so dropout, augmentation and batch
normalisation give the same numbers whoever computes which unit, and shapes stay what they are. The
price is that a worker's share is a whole number of units: see ``idle``.

Without random numbers and batch statistics there is nothing to fix, and a worker computes its share
at once. ``Watch`` finds out whether that is so: of batch normalisation, which may not do with the
part of a batch that a worker happens to get, from the model, and of the rest in every step.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.engine.generators import Probe
from trainer.engine.statistics import places_in

UNITS = 8  # that a batch is cut into by default, at least,
LARGEST = 8  # and so many samples has each of them, at most


def default_unit(batch: int, micro_batch: int | None = None) -> int:
    """The samples of a unit, where nobody says.

    A micro-batch is known to fit, and to be worth a pass of its own. Otherwise there are at least
    ``UNITS`` units, of at most ``LARGEST`` samples, and of 2 at least: batch normalisation cannot
    do with one. All are of one size if some size near that divides the batch.
    """
    if micro_batch is not None:
        return min(micro_batch, batch)
    most = min(max(batch // UNITS, 2), LARGEST, batch)
    return next((u for u in range(most, most // 2, -1) if batch % u == 0), most)


def cuts(start: int, stop: int, unit: int) -> list[int]:
    """Where [start, stop) is cut into units: k + 1 places for k of them.

    They have ``unit`` samples, or fewer where that does not divide, and then differ by at most 1.
    None has a single sample unless units of one are asked for.
    """
    count = stop - start
    units = -(-count // unit)
    if unit > 1:
        units = min(units, max(1, count // 2))
    return [start + index * count // units for index in range(units + 1)] if units else [start]


def idle(units: int, size: int) -> float:
    """The part of a step's time that a world's workers wait because units do not divide."""
    return 1 - units / (size * -(-units // size))


class Watch:
    """Tells whether what a rank has computed depends on how the batch was cut.

    Args:
        models: on their device.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        models = list(models)
        self._places = places_in(models)
        self._norms = [m for one in models for m in one.modules() if isinstance(m, _BatchNorm)]
        self._versions: list[int] = []
        self._generators = Probe()

    def known(self) -> str:
        """Why it depends, as far as the models tell before any step; "" if they do not."""
        return "batch statistics" if self._norms else ""

    def begin(self) -> None:
        """A step begins. No random number of it counts: either none is drawn, or it comes again."""
        self._versions = self._now()
        self._generators.begin()

    def found(self) -> str:
        """Why it depends, as far as the step has come; "" if it does not.

        To be asked once in a step; random generators are to be seeded then.
        """
        if self._now() != self._versions:
            return "batch statistics"
        return "random numbers" if self._generators.moved else ""

    def _now(self) -> list[int]:
        found = (module._buffers[name] for module, name in self._places)
        return [-1 if buffer is None else buffer._version for buffer in found]
