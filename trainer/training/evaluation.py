"""A data set is evaluated by all ranks of a world together, to the same figures in any world.

It is cut into parts that depend on no world, and each rank computes some of them. What they come to
is told to all, and added up exactly; so no sample counts twice where the length does not divide,
and neither the ranks' number nor their order shows in the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.engine.plan import Plan
from trainer.training.numbers import pairs

Part = tuple[int, Tensor]  # its number, and its samples, int64


def due(step: int, evaluated: int, every: int, total: int) -> bool:
    """Whether the state after ``step`` steps is to be evaluated.

    Args:
        evaluated: the newest step that has been.
        every: steps between evaluations.
        total: steps of the whole run; the last one is evaluated always.
    """
    return step > evaluated and (step % every == 0 or step >= total)


def evaluate(
    samples: int,
    most: int,
    plan: Plan,
    exchange: Callable[[Any, str], list[Any]],
    compute: Callable[[Sequence[Part]], Iterable[dict[str, Any]]],
) -> dict[str, float]:
    """Returns the means over a data set, on every rank. A collective: every rank must call it.

    Args:
        samples: how many the data set has.
        most: samples of a part.
        plan: which rank this is, and of how many.
        exchange: tells the ranks what each has given (see trainer.engine.exchange).
        compute: called with the parts of this rank; gives of each, in turn, its numbers by name,
            each a mean over its samples, or (sum, count).

    Raises HorovodInternalError when a peer is lost; nothing has come of it then.
    """
    parts = torch.arange(samples, device="cpu").split(most)
    mine = [(number, parts[number]) for number in range(plan.rank, len(parts), plan.size)]
    own = []
    for (number, part), numbers in zip(mine, compute(mine), strict=True):
        found = pairs(numbers, len(part))
        plain = {name: (float(total), float(count)) for name, (total, count) in found.items()}
        own.append((number, plain))
    told = sorted((one for of in exchange(own, "evaluation") for one in of), key=_number)
    sums: dict[str, list[tuple[float, float]]] = {}
    for _, plain in told:
        for name, pair in plain.items():
            sums.setdefault(name, []).append(pair)
    return {name: _mean(of) for name, of in sums.items()}


def _number(part: Any) -> int:
    return int(part[0])


def _mean(of: list[tuple[float, float]]) -> float:
    total, count = (_sum([pair[index] for pair in of]) for index in (0, 1))
    return total / count if count else math.nan


def _sum(numbers: list[float]) -> float:
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # infinite ones of both signs, or too large together
        return sum(numbers)
