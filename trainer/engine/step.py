"""One step of a training loop, as the user holds it: ``with step: ...``"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from horovod.common.exceptions import HorovodInternalError
from torch import Tensor
from torch.optim import Optimizer

from trainer.engine.generators import UPDATE
from trainer.engine.learned import NOTHING, Learned
from trainer.engine.micro_batch import MicroBatch
from trainer.engine.mistake import Mistake
from trainer.engine.nonfinite import GoesBack, LeftOut
from trainer.engine.own_groups import as_lost
from trainer.engine.parts import Parts
from trainer.engine.plan import Plan, Planned
from trainer.engine.sums import BlockOver, Learning, LoopEnded, Own, Slice, Summed, Sums
from trainer.engine.supply import Supply
from trainer.protocol.channel import Channel


class Step(Planned):
    """A step that is taken by all ranks together, or by none.

    Inside ``with step:`` come the backward pass and the optimizer's step. Gradients are
    summed over the workers by the time ``backward()`` returns, and after ``split()``. When a worker
    was lost before the optimizer stepped, the block ends early and without an error, and the
    loop gives the same step again, in the new world. ``applied`` tells which it was. It ends early
    as well where a step is left out (``on_nonfinite: skip``): the next step follows.

    Args:
        plan: what the step is about; its attributes are attributes of the step.
        sums: where the gradients are summed.
        names: of the numbers that ``add`` takes.
        channel: tells whether this worker is asked to leave the world.
        completed: called when the step was applied, and when it was left out.
        save_due: whether a checkpoint is due after this step, as far as this rank knows.
        judge: looks at what was summed before anybody uses it; raises LeftOut, or what ends the
            step otherwise.
        micro: how many samples go into one backward pass.
        taken: the sums of this step, if it was taken before: only what follows its block is to run
            again. The block ends where it first uses the step, or an optimizer.
        means: the names of the means that there is room for.
        seed: seeds the random generators for a unit, or for the update.
        watch: says why the step must be computed by units; "" if it need not.
        supply: gives batches.

    Attributes:
        applied: whether the step was taken.
        left_out: whether all ranks have left it out, because something was not finite: no
            parameter has changed, and the next step follows.
        taken: whether it was taken before, and only what follows its block runs again.
        learning: whether it was not applied because there was something to learn; it comes again.
        learned: what this rank has learned in it.
        pause: whether the world is to be left after it.
        save: whether a checkpoint is to be written after it.
        digest: whether the state after it is to be compared.
        metrics: the sums of what all ranks added, once the gradients are summed, without those that
            no rank has added to; NaN before, and in a step that is not taken.
        failed: why it was not applied, if the world is to be left.
        cause: whether the ranks want that, and why (see ``Generations.leave``).
        again: whether it was not applied because memory ran out, and smaller parts may fit.
        stopped: whether it was not applied because the loop is over: some worker called ``stop``.
        computed: seconds that this rank computed, without waiting for others.
        stepped: the ids of the optimizers that have taken their step.
    """

    def __init__(
        self,
        plan: Plan,
        sums: Sums,
        names: tuple[str, ...],
        channel: Channel,
        completed: Callable[[Step], None],
        save_due: Callable[[], bool] = lambda: False,
        judge: Callable[[Step, Summed], None] = lambda step, summed: None,
        *,
        micro: MicroBatch,
        taken: Mapping[str, float] | None = None,
        means: tuple[str, ...] = (),
        seed: Callable[[int], None] = lambda part: None,
        watch: Callable[[], str] = lambda: "",
        supply: Supply | None = None,
    ) -> None:
        self.plan = plan
        self._supply = supply or Supply()
        self.applied = self.taken = taken is not None
        self.left_out = False
        self.learning = False
        self.learned = NOTHING
        self.pause = False
        self.save = False
        self.digest = False
        self.metrics: dict[str, float] = dict(taken or dict.fromkeys(names, math.nan))
        self.failed, self.cause = "", "repeat"
        self.again = False
        self.stopped = False
        self._micro = micro
        self.computed = 0.0
        self.stepped: set[int] = set()
        self._sums = sums
        self._names = names
        self._added: dict[str, list[Tensor | float]] = {name: [] for name in names}
        self._means = means
        self._measured: dict[str, list[tuple[Tensor | float, Tensor | float]]] = {}
        self._seed = seed
        self._watch = watch
        self._counted: list[Tensor | float] = []
        self._asked = False  # whether the program knows what this worker's part is
        self._given: list[Tensor] | None = None  # by split(), if that was called
        self._channel = channel
        self._completed = completed
        self._save_due = save_due
        self._judge = judge
        self._entered = False
        self._open = False
        self._reduced = False
        self._broken: BaseException | None = None
        self._began = 0.0

    @property
    def indices(self) -> Tensor:
        """This rank's samples of the step: int64, shape [n]; n may be 0."""
        self._require_open()
        self._asked = True
        return self.plan.indices

    @property
    def batch(self) -> Any:
        """The samples of the part that ``split()`` has given, or all of ``indices``, on ``device``.

        Of the data set that ``steps(data=…)`` has; loaders have made it ahead, if there are any.
        Raises SampleError for a sample that cannot be made.
        """
        self._require_open()
        self._asked = True
        return self._supply.batch(self._seed, self._sums.check)

    @property
    def data_wait(self) -> float | None:
        """Seconds that this worker waited for its batches in this step; None without ``data=``."""
        return self._supply.waited if self._supply.known else None

    @property
    def size(self) -> int:
        """How many workers the world has."""
        self._asked = True
        return self.plan.size

    @property
    def epoch_done(self) -> bool:
        """Whether this step completed its epoch, be it that it was left out."""
        return (self.applied or self.left_out) and self.plan.ends_epoch

    @property
    def running(self) -> bool:
        """Whether its block is being executed."""
        return self._open

    # In the block.

    def __enter__(self) -> Step:
        if self._entered:
            self._broken = Mistake(
                "SW5135",
                f"`with step:` was entered twice in step {self.number}: a step has one block, and "
                "one sum of gradients; let models that are updated in turn, as in a GAN, take "
                "steps in turn",
            )
            raise self._broken
        self._entered = True
        self._began = time.perf_counter()
        plan = self.plan
        own = len(plan.indices)
        self._sums.begin(Slice(plan.number, own, plan.samples, plan.batch_size, plan.units))
        self._sums.buckets.arm(self.reduce)
        self._open = True
        if self.taken:
            self._sums.buckets.open = False  # what backward does is the program's own
        return self

    def split(self, most: int | None) -> Parts:
        """This rank's samples in parts of at most ``most``, one backward pass for each.

        A micro-batch fits into memory where the whole share does not. With None it has as many
        samples as are known to fit: the whole share at first, and never more than once went through
        in one pass. Where memory runs out the step is taken again, in parts of half the size, also
        of those that ``most`` allows. By units, each part is one of them, whatever ``most`` is and
        whatever fits (see ``elastic.batches``). There is no part when the rank has no sample in
        this step. When the loop over the parts is over, the gradients are summed over the workers,
        on every rank: clip them, unscale them, step with them.
        """
        own = self.indices
        parts = self.plan.parts
        return Parts(self.take, self._micro.split(own, most) if parts is None else parts)

    def take(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """One part after another; see ``split``."""
        buckets = self._sums.buckets
        self._given = []
        first = before = buckets.passes
        self._sums.unit_order.begin()
        for number, part in enumerate(parts, 1):
            self._given.append(part)
            if self.plan.parts is not None:
                unit = self.plan.first_unit + number - 1
                self._sums.begin_unit(unit)
                self._seed(unit)
            self._supply.give(part)
            if number < len(parts):
                buckets.disarm()
            else:
                before = buckets.passes
                buckets.arm(self.reduce)
            yield part
        if self.plan.parts is not None:
            self._sums.unit_order.given(self.number, len(parts))
        # Made a list, its one backward pass comes only now, and sums by itself.
        if not parts or buckets.passes > min(first, before) or buckets.set_by_hand:
            self.reduce()

    def add(self, **numbers: Tensor | float) -> None:
        """Adds numbers that are summed over all ranks, with the gradients.

        They must be added before the step's last backward pass, because they travel in
        the same buffer; in a loop over ``split()``, before it is over. Raises ValueError for a
        name that ``steps(metrics=…)`` does not have, and RuntimeError when it is too late.
        """
        self._require_time("add")
        for name, number in numbers.items():
            if name not in self._added:
                raise ValueError(
                    f"{name!r} is not one of the loop's metrics {self._names}; "
                    f"write steps(…, metrics=({name!r}, …))"
                )
            self._added[name].append(_detached(number))

    def measure(self, **means: tuple[Tensor | float, Tensor | float]) -> None:
        """Adds to means over all parts and workers, as (sum, count): they come in ``metrics``.

        To be called when ``add`` is, with any names. When one comes for the first time the block
        ends early, as when a worker is lost, and the step is taken again with room for it. Raises
        ValueError for a name that ``add`` takes, and RuntimeError when it is too late.
        """
        self._require_time("measure")
        for name, (total, count) in means.items():
            if name in self._added:
                raise ValueError(
                    f"{name!r} is a sum already, for add(); give the mean another name"
                )
            self._measured.setdefault(name, []).append((_detached(total), _detached(count)))

    def mean_over(self, count: Tensor | float) -> None:
        """Lets the step's loss be a mean over what is counted: tokens, pixels, pairs.

        The gradients, and the numbers of ``add``, are divided by the sum of all counts, over all
        parts and workers. So backward takes a *sum*: no share of it depends on how the batch was
        split. To be called for every part, before its backward pass. Raises RuntimeError when it
        is too late.
        """
        self._require_time("mean_over")
        self._counted.append(_detached(count))

    def reduce(self) -> None:
        """Waits until the gradients are summed over all ranks; a second call does nothing.

        ``backward()`` and the end of a loop over ``split()`` do it by themselves. To be called by
        programs that set gradients by hand, before they use them. Raises HorovodInternalError when
        a worker was lost.
        """
        self._require_open()
        self._require_whole()
        if self._reduced:
            return
        self._reduced = True
        try:
            self._take(self._sum())
            self._seed(UPDATE)
        except BaseException as error:
            self._broken = error
            raise

    def undo(self) -> None:
        """Puts back what the program has changed since the step was given to it."""
        self._sums.undo()

    def before_update(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """A hook of ``optimizer.step()``, before anything of it.

        Returns the arguments that it is to be called with; None for those that it has. Raises
        Mistake when this optimizer has stepped already, or the step is over.
        """
        try:
            return self._checked(optimizer, args, kwargs)
        except Mistake as error:  # the program may catch it, and go on
            self._broken = error
            raise

    def after_update(self, optimizer: Optimizer) -> None:
        """A hook of ``optimizer.step()``, after all of it."""
        self.stepped.add(id(optimizer))  # not before: a step may call that of its base class

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self.taken:
            self._open = False
            self._sums.forget()
            return isinstance(error, BlockOver)
        error = as_lost(error)
        try:
            if error is None:
                self.reduce()  # nobody stepped: all ranks must still do alike
        except (HorovodInternalError, LeftOut, Learning, LoopEnded) as found:
            error = found
        finally:
            self._open = self._sums.buckets.open = False
            self._sums.unit_order.begin()
        self.applied, self.left_out = error is None, isinstance(error, LeftOut)
        if error is None:
            self._micro.fitted(self._given or ())
        else:
            torn = self._sums.forget()
            self.learning = isinstance(error, Learning)
            if torn and (self.left_out or self.learning):
                what = "left out" if self.left_out else "taken again"
                self.left_out = self.learning = False
                self.failed = f"{torn} has changed in a step that is to be {what}"
            if not self._reduced:
                self._micro.require_room(error, self.number, self.plan.parts)
                self.again = self._micro.halve(error, self._given or ())
            if self.again:
                self.failed = f"rank {self.rank} takes smaller parts: {error}".splitlines()[0]
        if self.applied or self.left_out:
            self._completed(self)
        if isinstance(error, HorovodInternalError):
            self.failed, self.cause = str(error) or "a collective failed", GoesBack.cause_of(error)
        self.stopped = isinstance(error, LoopEnded)
        return bool(self.failed) or self.left_out or self.learning or self.stopped

    # --- behind it --------------------------------------------------------------------

    def _checked(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if not self._open:
            raise Mistake(
                "SW5119",
                f"optimizer.step() was called outside the block of step {self.number}; it belongs "
                "into `with step:`, where it is taken on all workers or on none",
            )
        self._require_open()
        if id(optimizer) in self.stepped:
            raise Mistake(
                "SW5120",
                f"optimizer.step() was called twice in step {self.number}, with the same "
                "gradients; an optimizer takes one step in a step",
            )
        closure = kwargs.get("closure") or next(iter(args), None)
        if callable(closure):
            return (self._summing(closure),), {k: v for k, v in kwargs.items() if k != "closure"}
        self._require_whole()
        if not self._reduced:
            raise Mistake(
                "SW5127",
                f"step {self.number}: rank {self.rank} came to optimizer.step() before gradients "
                "were summed over the workers: no backward() has run here, or they were set by "
                "hand; loop over step.split(), which has no part for a worker without samples, or "
                "call step.reduce() on all workers before gradients are used",
            )
        self.reduce()
        return None

    def _sum(self) -> Summed:
        if self.device.type == "cuda":  # what was launched has not been computed yet
            torch.cuda.current_stream(self.device).synchronize()
        self.computed = time.perf_counter() - self._began
        with self._channel.collective():
            return self._sums.reduce(self._own)

    def _own(self) -> Own:
        if self._given is None and self.plan.parts:
            raise Mistake(
                "SW5140",
                f"step {self.number} is computed by units, and the program took its samples from "
                "step.indices: loop over step.split(None), which gives one unit after another",
            )
        self._sums.unit_order.reached(self._sums.buckets.passes)
        self._require_asked()
        self._sums.roots.require_sums(self.number, bool(self._counted))
        new, units = self._measured.keys() - self._means, self._watch()
        learned = bool(new or units)
        if learned:
            self.learned = Learned(tuple(sorted(new)), units)
        added = {name: sum(map(float, self._added[name])) for name in self._names}
        measured = [self._measured.get(name, ()) for name in self._means]
        return Own(
            samples=[self.indices] if self._given is None else self._given,
            pause=not learned and self._channel.pause_requested(),
            save=self._save_due(),
            counted=sum(map(float, self._counted)),
            counts=bool(self._counted),
            data_wait=self._supply.waited,
            metrics=[
                *added.values(),
                *(float(len(self._added[name])) for name in self._names),
                *(sum(float(one[side]) for one in of) for of in measured for side in (0, 1)),
            ],
            learned=learned,
            finite=math.isfinite(added.get("loss", 0.0)),
        )

    def _take(self, summed: Summed) -> None:
        if summed.stop:
            raise LoopEnded("the loop is over")
        self.pause = summed.pause
        self.save = summed.save
        self.digest = summed.digest
        # Of what no worker has added to there is no sum, not one of 0; and no such mean.
        count = len(self._names)
        sums, counts = summed.metrics[:count], summed.metrics[count : 2 * count]
        named = zip(self._names, sums, counts, strict=True)
        self.metrics = {name: value for name, value, added in named if added}
        pairs = iter(summed.metrics[2 * count :])
        for name, total, number in zip(self._means, pairs, pairs, strict=True):
            if number:
                self.metrics[name] = total / number
        self._judge(self, summed)

    def _summing(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """An optimizer's closure, after which the gradients are summed on every rank."""

        def summed() -> Any:
            if self._reduced:
                raise Mistake(
                    "SW5121",
                    "the optimizer evaluates its closure several times in a step; a step has one "
                    "evaluation, so take an optimizer that needs no more",
                )
            loss = closure()
            self.reduce()
            return loss

        return summed

    def _require_whole(self) -> None:
        """Raises again what the step has raised: the program may have caught it, and goes on."""
        broken = self._broken or self._sums.buckets.broken
        if broken is not None:
            raise broken

    def _require_asked(self) -> None:
        """Raises Mistake when no worker can know which part of the step is its own."""
        if self._asked or self._counted or self.plan.size == 1 or not self._sums.buckets.passes:
            return
        raise Mistake(
            "SW5155",
            f"step {self.number} asks for no part of its own, so {self.plan.size} workers compute "
            "the same, or each what it likes, and their gradients are added up: loop over "
            "step.split(None), take step.indices, or share what there is by step.rank and "
            "step.size",
        )

    def _require_open(self) -> None:
        if self.taken and self._open:
            raise BlockOver

    def _require_time(self, what: str) -> None:
        self._require_open()
        if self._reduced:
            raise RuntimeError(f"{what}() came too late: call it before the step's last backward()")


def _detached(number: Tensor | float) -> Tensor | float:
    return number.detach() if isinstance(number, Tensor) else number
