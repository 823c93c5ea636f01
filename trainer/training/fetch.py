"""What loaders need of a task: how it makes batches, and of what."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from trainer.engine.plan import Plan
from trainer.loaders.sample import samples_of


def takes_step(method: Callable[..., Any], *args: Any) -> bool:
    """Whether a method of a task takes the step as one more argument."""
    try:
        inspect.signature(method).bind(*args, None)
    except TypeError:
        return False
    return True


class Fetch:
    """Makes batches as a task does, here or in a loader.

    Args:
        task: as it is before it trains.
        dataset: what it has given.
    """

    def __init__(self, task: Any, dataset: Any) -> None:
        self._task = task
        self.dataset = dataset
        self._tells = takes_step(task.batch, dataset, None)

    @property
    def module(self) -> str:
        """Where the task is defined."""
        return type(self._task).__module__

    def __call__(self, indices: Tensor, plan: Plan) -> Any:
        """The samples ``indices`` as one batch on the CPU, for a step."""
        step = (plan,) if self._tells else ()
        return self._task.batch(self.dataset, indices, *step)


class Collated:
    """Makes batches of a data set's samples, in a loop of the program's own.

    Args:
        dataset: anything with integer indexing.
        collate: makes one batch of a list of samples.
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.dataset = dataset
        self._collate = collate

    @property
    def module(self) -> str:
        """Where the data set is defined."""
        return type(self.dataset).__module__

    def __call__(self, indices: Tensor, plan: Plan) -> Any:
        """The samples ``indices`` as one batch on the CPU."""
        return self._collate(samples_of(self.dataset, indices.tolist()))
