"""What loaders need of a task: how it makes batches, and of what."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from trainer.engine.plan import Plan
from trainer.loaders.sample import samples_of
from trainer.rundir.usererror import UserError


def takes_step(method: Callable[..., Any], *args: Any) -> bool:
    """Whether a method of a task takes the step as one more argument."""
    try:
        inspect.signature(method).bind(*args, None)
    except TypeError:
        return False
    return True


class Unseen(UserError, RuntimeError):
    """A loader is asked for what it has as it was."""


def _unseen(name: str, kind: str) -> property:
    def refuse(task: Any, *value: Any) -> Any:
        raise Unseen(
            "SW5184",
            f"a loader process uses {kind}.{name}, which state() declares: it changes while the "
            "task trains, and loaders work ahead, with the task as it was; take what a batch needs "
            "from the step (batch(dataset, indices, step)), or make batches without loaders: "
            "workers=0",
        )

    return property(refuse, refuse)


class Fetch:
    """Makes batches as a task does, here or in a loader.

    Args:
        task: as it is before it trains.
        dataset: what it has given.
        method: the name of the method that makes a batch.

    Attributes:
        dataset: as above.
    """

    def __init__(self, task: Any, dataset: Any, method: str = "batch") -> None:
        self._task = task
        self.dataset = dataset
        self._method = method
        self._forbidden: tuple[str, ...] = ()
        self._tells = takes_step(getattr(task, method), dataset, None)

    @property
    def module(self) -> str:
        """Where the task is defined."""
        return type(self._task).__module__

    def forbid(self, names: tuple[str, ...]) -> None:
        """From now on these attributes of the task, which change, are errors to read here."""
        kind = type(self._task)
        if self._forbidden != names:
            self._forbidden = names
            guards = {name: _unseen(name, kind.__name__) for name in names}
            self._task.__class__ = type(kind.__name__, (kind,), guards)

    def __call__(self, indices: Tensor, plan: Plan) -> Any:
        """The samples ``indices`` as one batch on the CPU, for a step."""
        step = (plan,) if self._tells else ()
        return getattr(self._task, self._method)(self.dataset, indices, *step)


class Collated:
    """Makes batches of a data set's samples, in a loop of the program's own.

    Args:
        dataset: anything with integer indexing.
        collate: makes one batch of a list of samples.

    Attributes:
        dataset: as above.
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
