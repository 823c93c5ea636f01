"""One step of a training loop, as the user holds it: ``with step: ...``"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import torch
from horovod.common.exceptions import HorovodInternalError
from torch import Tensor

from trainer.engine.gradients import GradientBuckets
from trainer.protocol.channel import Channel

PAUSE, SAVE, SAMPLES, OWN = 0, 1, 2, 3  # the numbers that travel with the gradients


@dataclass(frozen=True)
class Plan:
    """What a step is about, on one rank.

    Attributes:
        number: of the step, from 1.
        epoch: from 0.
        indices: this rank's samples, int64, shape [n]; n may be 0.
        batch_size: samples of the step over all ranks.
        ends_epoch: whether it is the last step of its epoch.
        rank: this worker's rank.
        size: how many workers there are.
        device: where this worker computes.
    """

    number: int
    epoch: int
    indices: Tensor
    batch_size: int
    ends_epoch: bool
    rank: int
    size: int
    device: torch.device


class Step:
    """A step that is taken by all ranks together, or by none.

    Inside ``with step:`` come the backward pass and the optimizer's step. Gradients are
    summed over the workers by the time ``backward()`` returns. When a worker was lost
    before the optimizer stepped, the block ends early and without an error, and the
    loop gives the same step again, in the new world. ``applied`` tells which it was.

    Args:
        plan: what the step is about; its attributes are attributes of the step.
        buckets: where the gradients are summed.
        names: of the numbers that ``add`` takes.
        channel: tells whether this worker is asked to leave the world.
        completed: called when the step was applied.

    Attributes:
        applied: whether the step was taken.
        pause: whether the world is to be left after it.
        save: whether a checkpoint is to be written after it.
        metrics: the sums of what all ranks added, once the gradients are summed.
        failed: why it was not applied, if a worker was lost.
        computed: seconds that this rank computed, without waiting for others.
    """

    def __init__(
        self,
        plan: Plan,
        buckets: GradientBuckets,
        names: tuple[str, ...],
        channel: Channel,
        completed: Callable[[Step], None],
        save_due: Callable[[], bool] = lambda: False,
    ) -> None:
        self.plan = plan
        self.applied = False
        self.pause = False
        self.save = False
        self.metrics: dict[str, float] = {}
        self.failed = ""
        self.computed = 0.0
        self._buckets = buckets
        self._names = names
        self._added: dict[str, list[Tensor | float]] = {name: [] for name in names}
        self._channel = channel
        self._completed = completed
        self._save_due = save_due
        self._reduced = False
        self._began = 0.0

    # What the plan says, without the detour.

    @property
    def number(self) -> int:
        """The step's number, from 1."""
        return self.plan.number

    @property
    def epoch(self) -> int:
        """The epoch, from 0."""
        return self.plan.epoch

    @property
    def indices(self) -> Tensor:
        """This rank's samples of the step: int64, shape [n]; n may be 0."""
        return self.plan.indices

    @property
    def batch_size(self) -> int:
        """Samples of the step over all ranks: what a summed loss is divided by."""
        return self.plan.batch_size

    @property
    def rank(self) -> int:
        """This worker's rank in the world."""
        return self.plan.rank

    @property
    def size(self) -> int:
        """How many workers the world has."""
        return self.plan.size

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""
        return self.plan.device

    @property
    def epoch_done(self) -> bool:
        """Whether this step was applied and completed its epoch."""
        return self.applied and self.plan.ends_epoch

    # In the block.

    def __enter__(self) -> Step:
        self._began = time.perf_counter()
        self._buckets.zero()
        self._arm()
        return self

    def split(self, most: int | None) -> Iterator[Tensor]:
        """This rank's samples in parts of at most ``most``, one backward pass for each.

        A micro-batch fits into memory where the whole share does not. Nothing is
        yielded when the rank has no sample in this step.
        """
        parts = self.indices.split(most or max(1, len(self.indices))) if len(self.indices) else ()
        for number, part in enumerate(parts, 1):
            if number < len(parts):
                self._buckets.disarm()
            else:
                self._arm()
            yield part

    def add(self, **numbers: Tensor | float) -> None:
        """Adds numbers that are summed over all ranks, with the gradients.

        They must be added before the step's last backward pass, because they travel in
        the same buffer. Raises ValueError for a name that ``steps(metrics=…)`` does not
        have, and RuntimeError when it is too late.
        """
        if self._reduced:
            raise RuntimeError("add() came too late: call it before the step's last backward()")
        for name, number in numbers.items():
            if name not in self._added:
                raise ValueError(
                    f"{name!r} is not one of the loop's metrics {self._names}; "
                    f"write steps(…, metrics=({name!r}, …))"
                )
            self._added[name].append(number.detach() if isinstance(number, Tensor) else number)

    def reduce(self) -> None:
        """Waits until the gradients are summed over all ranks; a second call does nothing.

        ``backward()`` and the optimizer's step do it by themselves. Call it only where a
        rank may have had no sample and gradients are used before the optimizer steps
        (clipping, a GradScaler).

        Raises HorovodInternalError when a worker was lost.
        """
        if self._reduced:
            return
        self._reduced = True
        if self.device.type == "cuda":  # what was launched has not been computed yet
            torch.cuda.current_stream(self.device).synchronize()
        self.computed = time.perf_counter() - self._began
        with self._channel.collective():
            numbers = self._buckets.reduce()
        if round(numbers[SAMPLES]) != self.batch_size:
            raise RuntimeError(
                f"step {self.number} got gradients of {numbers[SAMPLES]:g} samples instead of "
                f"{self.batch_size}; this is a bug in Swell"
            )
        self.pause = numbers[PAUSE] > 0.5
        self.save = numbers[SAVE] > 0.5
        self.metrics = dict(zip(self._names, numbers[OWN:], strict=True))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        try:
            if error is None:
                self.reduce()  # nobody stepped: all ranks must still do alike
        except HorovodInternalError as lost:
            error = lost
        if error is None:
            self.applied = True
            self._completed(self)
        elif isinstance(error, HorovodInternalError):
            self.failed = str(error) or "a collective failed"
        return isinstance(error, HorovodInternalError)

    def _arm(self) -> None:
        self._buckets.arm(self._numbers, self.reduce)

    def _numbers(self) -> list[float]:
        own = [sum(float(one) for one in self._added[name]) for name in self._names]
        asked = [float(self._channel.pause_requested()), float(self._save_due())]
        return [*asked, float(len(self.indices)), *own]
