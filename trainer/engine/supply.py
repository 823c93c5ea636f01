"""The batch of each part of a step: made ahead of it by loader processes, or here when it is asked.

An item is a part of a share: a unit, or what goes through one backward pass. While a step computes,
loaders make the items of this step that are still to come, and those of the steps after it, as far
as this rank can know them: in another world the shares are others, and units that were made already
are used where they are wanted.

What is random in a batch is seeded for its unit, by numbers of its own, so it is the same whoever
makes it, and what the model draws after it does not depend on it. Without units it is seeded for
the part in a loader, and goes on with the generators of the step here.

The parts of an evaluation are made in the same way, by the same loaders, ahead of the training
batches that follow it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from trainer.engine.foresight import Foresight
from trainer.engine.generators import generators_state, load_generators_state, seed_batch
from trainer.engine.item import EVALUATION, TRAINING, Item, Made, Make, Maker, stream_of
from trainer.engine.lane import Lane, Sent, lane_to
from trainer.engine.marks import Marks
from trainer.engine.micro_batch import MicroBatch
from trainer.engine.mistake import Mistake
from trainer.engine.plan import Plan
from trainer.engine.planner import Planner
from trainer.loaders.handed import Handed
from trainer.loaders.likeness import UNKNOWN, Likeness
from trainer.loaders.mark import Mark
from trainer.loaders.pool import Loaders, Wanted

SENT = 1  # batches that are on the device, or on their way to it, before they are asked for


class Supply:
    """Gives batches to one step after another.

    Args:
        make: makes a batch; None for a loop that makes its own.
        workers: loader processes; with 0 a batch is made when it is asked for.
        prefetch: items for each loader that are made ahead.
        seed: of what is random in a step; None leaves the generators alone.
        most: of a micro-batch, until ``split()`` has said it.
        channels_last: see ``to_device``.
        evaluated: makes a batch of the data that is evaluated.

    Attributes:
        waited: seconds that the running step has waited for its batches.
        drew: whether loaders have drawn random numbers for it, if that is watched.
        marks: of data without a length.
        changing: the names of what changes in the program: loaders refuse to give it.

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
        evaluated: Make | None = None,
    ) -> None:
        if workers < 0 or prefetch < 1:
            raise ValueError(
                f"workers={workers}, prefetch={prefetch}: write workers=0 for no loaders, or more, "
                "and at least prefetch=1"
            )
        self.waited = 0.0
        self.drew = False
        self.marks = Marks()
        self.changing: tuple[str, ...] = ()
        self.most = most
        pairs = ((TRAINING, make), (EVALUATION, evaluated))
        self._makes = makes = {of: one for of, one in pairs if one is not None}
        self._seed = seed
        self._channels_last = channels_last
        self._ahead = max(1, workers * prefetch)
        self._loaders: Loaders[Any] | None = None
        self._handed: list[Handed] = []
        self._dataset = getattr(make, "dataset", None)
        self._length = _length_of(self._dataset)
        self._foresight = Foresight.of(self._dataset)
        if make is not None and workers:
            self._handed = [Handed(getattr(one, "dataset", None)) for one in makes.values()]
            self._loaders = Loaders(Maker(makes), workers, _module_of(make))
        self._stream = None if make is None else stream_of(make)
        self._lane: Lane | None = None
        self._sent: dict[Any, tuple[Sent, bool]] = {}  # by key: ahead of the step that takes it
        self._coming: deque[Wanted[Any]] = deque()
        self._evaluating: deque[Wanted[Any]] = deque()  # before them
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
        return TRAINING in self._makes

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

    def likeness(self) -> Likeness:
        """What the data is like; not known where there is none.

        A loader looks at it: what a data set keeps of what was read is its own. Without one, or
        before there is one, as beside an active worker, this process does. Raises as ``wait``.
        """
        if self._loaders is not None and self._loaders.started:
            wanted = Wanted[Any]("likeness", None, ())
            self._loaders.want([wanted])
            made: Made = self._loaders.get(wanted)
            return made.batch  # type: ignore[no-any-return]
        before = generators_state()
        found = Maker(self._makes).likeness() if self._makes else UNKNOWN
        load_generators_state(before)
        return found

    def close(self) -> None:
        """Ends the loaders, and what is done for steps to come; what is asked for is made here."""
        if self._loaders is not None:
            self._loaders.close()
            self._loaders = None
        if self._foresight is not None:
            self._foresight.close()

    def begin(
        self,
        plan: Plan,
        watched: bool,
        planner: Planner,
        micro: MicroBatch,
        source: dict[str, Any] | None = None,
    ) -> None:
        """A step begins; loaders begin with what is wanted of it, and of those that follow.

        Args:
            plan: what it is about.
            watched: whether it matters that random numbers are drawn.
            planner: plans the steps to come.
            micro: cuts a share into parts where there are no units.
            source: where data without a length can be read on, as the state says.
        """
        before = 0 if self._plan is None else self._plan.number
        if self._plan is None or plan.epoch != self._plan.epoch:
            self._require_length(plan.epoch)
        self.waited, self.drew = 0.0, False
        if self._stream is not None:
            place = (plan.number - 1) * plan.batch_size
            self.marks.begin(place, plan.batch_size, source, first=self._plan is None)
        self._plan, self._watched = plan, watched
        self._part, self._batch, self._given = None, None, 0
        self._evaluating.clear()
        if self._foresight is not None:
            self._foresight.begin(plan, planner.known, planner.far_ahead)
        if self._loaders is None:
            return
        self._require_unchanged()
        known = planner.known, watched, self.most
        if known != self._known or plan.number != before + 1:
            self._known, self._next = known, plan.number
            self._coming.clear()
        while self._coming and self._coming[0].request.plan.number < plan.number:
            self._coming.popleft()
        own = sum(one.request.plan.number == plan.number for one in self._coming)
        last = min(plan.total, plan.number + self._ahead)
        while len(self._coming) < own + self._ahead and self._next <= last:
            other = plan if self._next == plan.number else planner.ahead(self._next)
            items = [self._wanted(other, *part) for part in _parts(other, micro, self.most)]
            own += len(items) * (self._next == plan.number)
            self._coming.extend(items)
            self._next += 1
        self._want()

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
        if not self.known or plan is None:
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
                self._batch = self._made(plan, number, part, seed, check)
            finally:
                self.waited += time.perf_counter() - began
        return self._batch

    def evaluated(
        self, parts: Sequence[tuple[int, Tensor]], plan: Plan, check: Callable[[], None]
    ) -> Iterator[Any]:
        """Gives the batches of an evaluation, on the device, one after another.

        What is random in each is seeded for its part.

        Args:
            parts: what this rank computes of it: their numbers, and their samples, int64.
            plan: what the step before was about.
            check: called every now and then while one is waited for; may raise.

        Raises as ``batch`` does.
        """
        items = deque(self._wanted(plan, -2 - number, part, EVALUATION) for number, part in parts)
        while items:
            check()
            self._evaluating = deque(islice(items, self._ahead))
            wanted = items.popleft()
            item: Item = wanted.request
            if self._loaders is not None and self._loaders.warming:
                self._loaders.look()
            if self._makes_here:
                seed = self._seed if self._seed is not None else 0
                seed_batch(seed, item.plan.number, item.part)
                yield self._brought(self._makes[EVALUATION](item.plan.indices, item.plan), plan)
            else:
                self._want()
                yield self._taken(plan, wanted, check)
        self._evaluating.clear()

    def _require_length(self, epoch: int) -> None:
        """Raises Mistake when the data has more or fewer samples than when training began."""
        now = _length_of(self._dataset)
        if now != self._length:
            raise Mistake(
                "SW5230",
                f"the data set had {self._length} samples when training began, and has {now} at "
                f"the start of epoch {epoch + 1}: which samples a step takes is fixed for the "
                "whole run, so those that come later would never be used; have all samples from "
                "the start, and let their weight in the loss follow the step (step.epoch), or "
                "train each stage in a run of its own, from the weights of the one before",
            )

    def _require_unchanged(self) -> None:
        """Raises Mistake when the data has changed since loaders have it."""
        for one in self._handed:
            if changed := one.changed:
                raise Mistake(
                    "SW5188",
                    f"the data set's {changed}, since it was handed to loader processes, which do "
                    "not see that: let batches follow the step (batch(dataset, indices, step)), "
                    "make them without loaders (workers=0), or, if it is a cache and changes no "
                    "sample, let its name begin with an underscore",
                )

    @property
    def _makes_here(self) -> bool:
        """Whether a batch is made by this process: there is no loader, or none yet."""
        return self._loaders is None or self._loaders.warming

    def _made(
        self,
        plan: Plan,
        unit: int | None,
        part: Tensor,
        seed: Callable[[int], None],
        check: Callable[[], None],
    ) -> Any:
        if self._makes_here:
            if unit is not None and self._seed is not None:
                seed_batch(self._seed, plan.number, unit)
            if self._stream is not None:
                self._stream.seek(*self._from(plan))
            batch = self._brought(self._makes[TRAINING](part, plan), plan)
            if self._stream is not None:
                self.marks.note(self._stream.marks())
            if unit is not None:
                seed(unit)
            return batch
        wanted = self._wanted(plan, _number(part) if unit is None else unit, part)
        if wanted.key not in {one.key for one in self._coming}:
            self._coming.appendleft(wanted)
            self._want()
        return self._taken(plan, wanted, check)

    def _brought(self, batch: Any, plan: Plan) -> Any:
        lane = self._lane_to(plan.device)
        return lane.arrive(lane.send(batch))

    def _taken(self, plan: Plan, wanted: Wanted[Any], check: Callable[[], None]) -> Any:
        """What loaders have made, on the device; what comes next is sent there."""
        loaders, lane = self._loaders, self._lane_to(plan.device)
        assert loaders is not None
        if wanted.key in self._sent:
            sent, drew = self._sent.pop(wanted.key)
        else:
            made: Made = loaders.get(wanted, check)
            self.marks.note(made.marks)
            sent, drew = lane.send(made.batch), made.drew
        self.drew |= drew
        self._coming = deque(one for one in self._coming if one.key != wanted.key)
        self._evaluating = deque(one for one in self._evaluating if one.key != wanted.key)
        loaders.look()
        for one in islice(chain(self._evaluating, self._coming), SENT):
            if one.key not in self._sent and (found := loaders.take(one.key)) is not None:
                self.marks.note(found.marks)
                self._sent[one.key] = lane.send(found.batch), found.drew
        return lane.arrive(sent)

    def _want(self) -> None:
        """Says to loaders what is to come, and forgets what is not."""
        assert self._loaders is not None
        window = [*self._evaluating, *self._coming]
        keys = {one.key for one in window}
        self._sent = {key: value for key, value in self._sent.items() if key in keys}
        self._loaders.want(one for one in window if one.key not in self._sent)

    def _from(self, plan: Plan) -> tuple[Mark | None, int]:
        """From where data without a length is read in a step, and what is not wanted any more."""
        oldest = (plan.number - 1) * plan.batch_size
        return self.marks.before(oldest), oldest

    def _lane_to(self, device: torch.device) -> Lane:
        self._lane = self._lane or lane_to(device, self._channels_last)
        return self._lane

    def _wanted(self, plan: Plan, number: int, part: Tensor, of: str = TRAINING) -> Wanted[Any]:
        about = replace(plan, indices=part, parts=None, device=torch.device("cpu"))
        training = of == TRAINING
        stream = self._from(self._plan or plan) if training and self._stream is not None else ()
        item = Item(about, number, self._watched and training, self._seed, of, *stream)
        if self.changing:
            item = replace(item, changing=self.changing)
        return Wanted(item.key, item, part.tolist())


def _parts(plan: Plan, micro: MicroBatch, most: int | None) -> Iterator[tuple[int, Tensor]]:
    """The parts of a share, each with its number."""
    if plan.parts is not None:
        yield from enumerate(plan.parts, plan.first_unit)
    else:
        for part in micro.split(plan.indices, most):
            yield _number(part), part


def _length_of(dataset: Any) -> int | None:
    return len(dataset) if isinstance(dataset, Sized) else None


def _number(part: Tensor) -> int:
    return int(part[0]) if len(part) else 0


def _module_of(make: Make) -> str:
    """The module of the program that ``make`` needs."""
    return str(getattr(make, "module", "__main__"))
