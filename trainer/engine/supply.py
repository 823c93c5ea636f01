"""The batch of each part of a step: made ahead of it by loader processes, or here when it is asked.

An item is a part of a share: a unit, or what goes through one backward pass. While a step computes,
loaders make the items of this step that are still to come, and those of the steps after it, as far
as this rank can know them: in another world the shares are others, and units that were made already
are used where they are wanted.

What is random in a batch is seeded for its unit, by numbers of its own, so it is the same whoever
makes it, and what the model draws after it does not depend on it. Without units it is seeded for
the part in a loader, and goes on with the generators of the step here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainer.engine.device import to_device
from trainer.engine.foresight import Foresight
from trainer.engine.generators import seed_batch
from trainer.engine.item import Item, Make, Maker
from trainer.engine.micro_batch import MicroBatch
from trainer.engine.mistake import Mistake
from trainer.engine.plan import Plan
from trainer.engine.planner import Planner
from trainer.loaders.pool import Loaders, Wanted


class Supply:
    """Gives batches to one step after another.

    Args:
        make: makes a batch; None for a loop that makes its own.
        workers: loader processes; with 0 a batch is made when it is asked for.
        prefetch: items for each loader that are made ahead.
        seed: of what is random in a step; None leaves the generators alone.
        most: of a micro-batch, until ``split()`` has said it.
        channels_last: see ``to_device``.

    Attributes:
        waited: seconds that the running step has waited for its batches.
        drew: whether loaders have drawn random numbers for it, if that is watched.

    Raises NoLoaders when loaders cannot be given what they need, and ValueError for a number of
    ``workers`` or of ``prefetch`` that there cannot be.
    """

    def __init__(
        self,
        make: Make | None = None,
        workers: int = 0,
        prefetch: int = 2,
        seed: int | None = None,
        most: int | None = None,
        channels_last: bool = False,
    ) -> None:
        if workers < 0 or prefetch < 1:
            raise ValueError(
                f"workers={workers}, prefetch={prefetch}: write workers=0 for no loaders, or more, "
                "and at least prefetch=1"
            )
        self.waited = 0.0
        self.drew = False
        self.most = most
        self._make = make
        self._seed = seed
        self._channels_last = channels_last
        self._ahead = max(1, workers * prefetch)
        self._loaders: Loaders[Any] | None = None
        self._foresight = Foresight.of(getattr(make, "dataset", None))
        if make is not None and workers:
            self._loaders = Loaders(Maker(make), workers, _module_of(make))
        self._coming: deque[Wanted[Any]] = deque()
        self._next = 0  # the step after those whose items are among them
        self._known: Any = None  # what they follow from
        self._plan: Plan | None = None
        self._part: tuple[int | None, Tensor] | None = None  # with its unit's number
        self._batch: Any = None  # of that part, once it was asked for
        self._given = 0  # parts
        self._watched = False

    @property
    def known(self) -> bool:
        """Whether batches come from here, and not from the program."""
        return self._make is not None

    @property
    def pids(self) -> list[int]:
        """The loader processes."""
        return [] if self._loaders is None else self._loaders.pids

    def start(self) -> None:
        """Starts the loaders: they take a second or more to be ready."""
        if self._loaders is not None:
            self._loaders.start()

    def wait(self) -> None:
        """Waits until loaders that were started are ready. Raises NoLoaders, LoadersLost."""
        if self._loaders is not None:
            self._loaders.wait()

    def close(self) -> None:
        """Ends the loaders, and what is done for the steps to come."""
        if self._loaders is not None:
            self._loaders.close()
        if self._foresight is not None:
            self._foresight.close()

    def begin(
        self,
        plan: Plan,
        watched: bool,
        planner: Planner,
        micro: MicroBatch,
    ) -> None:
        """A step begins; loaders begin with what is wanted of it, and of those that follow.

        Args:
            plan: what it is about.
            watched: whether it matters that random numbers are drawn.
            planner: plans the steps to come.
            micro: cuts a share into parts where there are no units.
        """
        before = 0 if self._plan is None else self._plan.number
        self.waited, self.drew = 0.0, False
        self._plan, self._watched = plan, watched
        self._part, self._batch, self._given = None, None, 0
        if self._foresight is not None:
            self._foresight.begin(plan, planner.known, planner.far_ahead)
        if self._loaders is None:
            return
        known = planner.known, watched, self.most
        if known != self._known or plan.number != before + 1:
            self._known, self._next = known, plan.number
            self._coming.clear()
        while self._coming and self._coming[0].key[0] < plan.number:
            self._coming.popleft()
        own = sum(one.key[0] == plan.number for one in self._coming)
        last = min(plan.total, plan.number + self._ahead)
        while len(self._coming) < own + self._ahead and self._next <= last:
            other = plan if self._next == plan.number else planner.ahead(self._next)
            items = [self._wanted(other, *part) for part in _parts(other, micro, self.most)]
            own += len(items) * (self._next == plan.number)
            self._coming.extend(items)
            self._next += 1
        self._loaders.want(self._coming)

    def give(self, part: Tensor) -> None:
        """``split()`` gives the next part: the batch is that of it."""
        plan = self._plan
        if plan is not None:
            number = None if plan.parts is None else plan.first_unit + self._given
            self._part, self._batch = (number, part), None
            self._given += 1

    def watch(self, found: Callable[[], str] | None) -> Callable[[], str]:
        """Says why the step must be computed by units, as ``found`` does here; "" if it need not.

        With None it is not watched.
        """
        if found is None:
            return lambda: ""
        return lambda: found() or ("random numbers" if self.drew else "")

    def batch(self, seed: Callable[[int], None], check: Callable[[], None]) -> Any:
        """The samples of the part that was given, or all of the share, as a batch on the device.

        Args:
            seed: seeds the random generators for a unit.
            check: called every now and then while it is waited for; may raise.

        Raises SampleError, LoadersLost, and what the program's own code raises.
        """
        plan, began = self._plan, time.perf_counter()
        if self._make is None or plan is None:
            raise Mistake(
                "SW5171",
                "step.batch has no data set to take samples from; name it: "
                "elastic.steps(…, data=dataset)",
            )
        if self._part is None and not len(plan.indices):
            raise Mistake(
                "SW5172",
                f"step {plan.number}: rank {plan.rank} has no sample in this step, and step.batch "
                "would be of none; take it in a loop over step.split(None), which has no part then",
            )
        if self._batch is None:
            whole = None if plan.parts is None else _number(plan.indices)
            number, part = self._part or (whole, plan.indices)
            try:
                made = self._fetched(self._make, plan, number, part, seed, check)
                self._batch = to_device(made, plan.device, self._channels_last)
            finally:
                self.waited += time.perf_counter() - began
        return self._batch

    def _fetched(
        self,
        make: Make,
        plan: Plan,
        unit: int | None,
        part: Tensor,
        seed: Callable[[int], None],
        check: Callable[[], None],
    ) -> Any:
        if self._loaders is None:
            if unit is not None and self._seed is not None:
                seed_batch(self._seed, plan.number, unit)
            batch = make(part, plan)
            if unit is not None:
                seed(unit)
            return batch
        wanted = self._wanted(plan, _number(part) if unit is None else unit, part)
        if wanted.key not in {one.key for one in self._coming}:
            self._coming.appendleft(wanted)
            self._loaders.want(self._coming)
        batch, drew = self._loaders.get(wanted, check)
        self._coming = deque(one for one in self._coming if one.key != wanted.key)
        self.drew |= drew
        return batch

    def _wanted(self, plan: Plan, number: int, part: Tensor) -> Wanted[Any]:
        about = replace(plan, indices=part, parts=None, device=torch.device("cpu"))
        item = Item(about, number, self._watched, self._seed)
        return Wanted(item.key, item, part.tolist())


def _parts(plan: Plan, micro: MicroBatch, most: int | None) -> Iterator[tuple[int, Tensor]]:
    """The parts of a share, each with its number."""
    if plan.parts is not None:
        yield from enumerate(plan.parts, plan.first_unit)
    else:
        for part in micro.split(plan.indices, most):
            yield _number(part), part


def _number(part: Tensor) -> int:
    return int(part[0]) if len(part) else 0


def _module_of(make: Make) -> str:
    """The module of the program that ``make`` needs."""
    return str(getattr(make, "module", "__main__"))
