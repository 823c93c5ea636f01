"""What the ranks of a world sum in a step, and what they compare: all of it in one exchange.

The gradients, the running statistics of batch normalisation, the step's numbers; and beside them
what each rank tells of itself. Everything is compared before a sum becomes anybody's gradient, so
whatever was found to differ has changed no parameter yet, on no rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError
from torch import Tensor, nn

from trainer.engine.digest import MASK, digest_of_numbers
from trainer.engine.exchange import exchange
from trainer.engine.extras import Extras, Head, Read
from trainer.engine.gradients import GradientBuckets
from trainer.engine.marks import require_same_samples
from trainer.engine.outside import Outside, require_alike
from trainer.engine.parameter_hooks import ParameterHooks
from trainer.engine.replicas import Replicas, Told, compare
from trainer.engine.roots import Roots, require_divisors
from trainer.engine.state import State
from trainer.engine.statistics import Statistics
from trainer.engine.timing import Times
from trainer.engine.trained import Guard, Trained
from trainer.engine.transfer import broadcast_tree
from trainer.engine.undo import Undo
from trainer.engine.unit_order import UnitOrder
from trainer.engine.verdict import Verdict
from trainer.loaders.mark import Seen


@dataclass(frozen=True)
class Slice:
    """The samples of a step.

    Attributes:
        number: of the step, from 1.
        share: how many of them are this rank's.
        whole: the digest of those of all ranks; 0 without a data set.
        count: how many all ranks have together.
        units: what all ranks compute together, if they compute by units; else 0.
    """

    number: int
    share: int
    whole: int
    count: int
    units: int = 0


class Own(NamedTuple):
    """What one rank brings into a step, besides its gradients.

    Attributes:
        samples: the ids of those that it has computed, int64, in any number of parts.
        pause: whether it is asked to leave the world.
        stop: whether its program has ended the loop, and so computes no more.
        save: whether a checkpoint is due, as far as it knows.
        counted: what its loss is a sum over, if the program counts it; else 0.
        counts: whether it does; what it counts may be nothing on this rank.
        data_wait: seconds that it has waited for its batches.
        metrics: its part of them.
        learned: whether it has learned what must be known before the step.
        finite: whether its loss is.
    """

    samples: Sequence[Tensor]
    pause: bool
    save: bool
    counted: float
    metrics: Sequence[float]
    stop: bool = False
    learned: bool = False
    finite: bool = True
    counts: bool = False
    data_wait: float = 0.0


class Learning(Exception):
    """The step is not taken: something was learned in it that must be known before it."""


class LoopEnded(Exception):
    """Ends the block of a step that nobody takes."""


class BlockOver(Exception):
    """Ends the block of a step that was taken before; only what follows it runs again."""


class Summed(NamedTuple):
    """What has come of them.

    Attributes:
        pause: whether the world is to be left after this step.
        save: whether a checkpoint is due after it.
        digest: whether the digest of the state is due after it.
        metrics: the sums, divided by what the program has counted, if it has.
        norm: of all gradients, or more; if it is not finite, their norm.
        nonfinite: the ranks whose own loss or gradients are not finite.
        stop: whether the loop has ended before this step, which is taken by nobody.
        nothing: whether the program has counted what its loss is a mean over, and come to nothing.
    """

    pause: bool
    save: bool
    digest: bool
    metrics: Sequence[float]
    norm: float = 0.0
    nonfinite: Sequence[int] = ()
    stop: bool = False
    nothing: bool = False


class Sums:
    """The sums of one world after another.

    Args:
        state: whose models are trained; they are on their device, and the optimizers are made.
        metrics: how many numbers a step sums for the program.
        check: raises to end a backward pass whose gradients nobody waits for any more.
        emit: emits an event.
        read: what was read here at a place of data without a length.

    Attributes:
        trained: what is trained.
        replicas: when the state is compared.
        rank: in the world that there is now.
        roots: what the program goes back from.
        unit_order: whether units are computed as they are given.
        times: what the ranks spend their time on, in the world that there is now.
    """

    def __init__(
        self,
        state: State,
        metrics: int,
        check: Callable[[], None],
        emit: Callable[..., None] = lambda event, **fields: None,
        read: Callable[[int], Seen | None] = lambda place: None,
    ) -> None:
        self._state = state
        self.check = check
        self._read = read
        self._metrics = metrics
        self._statistics = Statistics(state.models)
        self.unit_order = UnitOrder(state.models)
        self._undo = Undo(state)
        self._outside = Outside(state)
        self.roots = Roots()
        self.trained = Trained(state)
        self._hooks = ParameterHooks(self.trained.name)
        self.replicas = Replicas(state)
        self.times = Times()
        self.rank = 0
        self._size = 0
        self._mixed = False
        self._unused: list[nn.Parameter] = []
        self._guard = Guard(state)
        state.training(True)
        self._verdict = Verdict(state, emit)
        self._slice = Slice(0, 0, 0, 0)
        self._buckets: GradientBuckets | None = None
        self._extras = Extras(0, 0, 0)

    def enter(self, rank: int, size: int, mixed: bool = False) -> None:
        """This worker has joined a world; ``mixed`` says that its devices are not alike."""
        self.rank = rank
        self._mixed = mixed
        if size != self._size:
            self._size = size
            self._drop_buckets()
        self.replicas.enter()
        self.times.enter()

    def expect(self, metrics: int) -> None:
        """From now on, a step sums so many numbers for the program."""
        if metrics != self._metrics:
            self._metrics = metrics
            self._drop_buckets()

    def close(self) -> None:
        """No step follows: the models are the program's again."""
        self._drop_buckets()
        self.unit_order.close()
        self._outside.forget()
        self._forget_backward()
        self._guard.close()
        self._state.training(False)

    # --- a step -----------------------------------------------------------------------

    def grant(self) -> None:
        """A step is given to the program: what it changes from now on can be put back."""
        self._undo.begin(examine=self.replicas.examine, whole=self._state.step == 0)

    def begin(self, samples: Slice) -> None:
        """A step begins, on all ranks. Raises Mistake for what cannot be trained any more."""
        self._slice = samples
        statistics = len(self._statistics) if self._counts_statistics else 0
        moved = statistics != self._extras.statistics
        if self.trained.follow() or self._buckets is None or moved:
            self._drop_buckets()
            self.trained.require_own_gradients()
            self._deal()
        self.buckets.zero(witness=self.replicas.examine, unused=self._unused)
        self._unused = []
        if self.replicas.examine:
            self.trained.require_schedules()
            self._outside.watch()
            self.roots.watch(samples.share, samples.count, samples.units)
            self._hooks.watch(self.trained.parameters if self._size > 1 else ())
        if self._counts_statistics:
            self._statistics.begin(samples.units)

    def begin_unit(self, number: int) -> None:
        """What comes now is the step's unit ``number``, from 0."""
        self._statistics.begin_unit(number)

    @property
    def buckets(self) -> GradientBuckets:
        """Where the gradients of the running step arrive."""
        assert self._buckets is not None
        return self._buckets

    def reduce(self, own: Callable[[], Own]) -> Summed:
        """Sums everything over the ranks; the sums are the parameters' gradients then.

        Args:
            own: gives this rank's numbers, when its gradients are complete.

        Raises HorovodInternalError when a worker was lost, Learning when a rank has learned
        something, Mistake when the ranks do not train alike, and StandsAlone on a rank that differs
        from several others; no parameter has a gradient then.
        """
        self.trained.require_unchanged()
        self._forget_backward()
        buckets = self.buckets

        def fill(late: bool) -> list[float]:
            mine = own()
            count = sum(one.numel() for one in mine.samples)
            witness, magnitude = buckets.witnessed()
            head = Head(
                pause=mine.pause,
                stop=mine.stop,
                save=mine.save,
                digest=self.rank == 0 and self.replicas.due(),
                late=late,
                learned=mine.learned,
                samples=count,
                counted=mine.counted,
                uncounted=not mine.counts and bool(mine.samples) and self._slice.share > 0,
                witness=witness,
                magnitude=magnitude,
            )
            added = self._statistics.added(self._weight) if self._counts_statistics else []
            told = self._told(mine)
            timing = self.times.own.complete(mine.data_wait, count)
            if self._size == 1:
                alone.extend(timing)
            numbers = self._extras.written(head, mine.metrics, added, self.rank, told, timing)
            if not mine.finite:
                numbers[norm_at] = math.inf
            return numbers

        alone: list[float] = []  # what a world of one has to tell of its time
        norm_at = self._extras.norm_at(self.rank)
        read = self._extras.read(buckets.reduce(fill, norm_at))
        self.times.own.summed()
        self.times.told(read.times or alone)
        head = read.head
        if head.stop > 0.5:
            buckets.forget()
            return Summed(pause=False, save=False, digest=False, metrics=(), stop=True)
        self._compare(read)
        if head.learned > 0.5:
            self._undo.summed(taken=False)
            raise Learning
        if head.late:
            buckets.reduce_late()
        divisor = self._verdict.divisor(head.counted, head.uncounted, self._slice.number)
        buckets.settle(divisor)
        total, magnitude = head.witness / divisor, head.magnitude / divisor
        buckets.require_witnessed(total, magnitude, self._size)
        if self._counts_statistics:
            self._statistics.settle(read.statistics)
        if self.replicas.examine:
            self._require_outside_alike()
        self._undo.summed()
        bound = sum(read.norms) / divisor
        nothing = head.counted == 0 and head.uncounted < 0.5 and head.samples > 0.5
        return Summed(
            pause=head.pause > 0.5,
            save=head.save > 0.5,
            digest=head.digest + head.save > 0.5,
            metrics=[math.nan if nothing else one / divisor for one in read.metrics],
            # That of a sum is no larger than the norms together; what came late is in none of them.
            norm=bound if math.isfinite(bound) and not head.late else buckets.norm(),
            nonfinite=read.nonfinite if self._size > 1 else [self.rank],
            nothing=nothing,
        )

    def end(self, samples: Slice) -> None:
        """Tells all ranks that the loop is over here: they do not take the step that begins.

        A collective, in place of the step. Raises as ``reduce`` does.
        """
        if self._size > 1:
            self.begin(samples)
            none = Own(samples=(), pause=False, save=False, counted=0.0, metrics=(), stop=True)
            self.reduce(lambda: none._replace(metrics=[0.0] * self._metrics))
            self.forget()

    def forget(self) -> str:
        """The step is not taken: what the program has changed in it is put back.

        Returns what could not be put back; "" if all was.
        """
        if self._buckets is not None:
            self._buckets.forget()
        self._outside.forget()
        self._forget_backward()
        self._undo.undo()
        return self._state.torn

    def left(self) -> None:
        """The block of a step is over, and it was taken."""
        self._undo.left()

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """Between two steps, what is changed in it is put back when a worker is lost."""
        self._undo.left()
        try:
            yield
        except HorovodInternalError:
            self._undo.undo()
            raise

    def undo(self) -> None:
        """What the program has done after the block does not count: it will do it again."""
        self._undo.undo()

    def applied(self, stepped: Container[int], digest: bool) -> None:
        """The step was taken.

        Args:
            stepped: the ids of the optimizers that have used the gradients.
            digest: whether the state is to be digested now.
        """
        self._unused = self.trained.unused(stepped)
        self._undo.taken()
        if self.replicas.examine:
            self.trained.require_same_model()
        self.replicas.completed(digest)

    def align(self) -> None:
        """On unlike devices, makes all ranks hold what rank 0 holds. A collective.

        Their parameters drift apart by rounding, while all is well. Raises Mistake when it is more.
        """
        if self._mixed:
            tree, _ = broadcast_tree(
                self._state.export() if self.rank == 0 else None, 0, self._state.prepare()
            )
            distance = 0.0 if self.rank == 0 else self._state.align(tree)
            farthest = torch.tensor([distance], dtype=torch.float64, device="cpu")
            distances = hvd.allgather(farthest, name="state.distance").tolist()
            self._verdict.require_near(distances, self._state.step)
            self.replicas.forget()

    def digest(self) -> int:
        """The digest of the state between two steps; 0 where ranks may differ by rounding."""
        return 0 if self._mixed else self.replicas.digest_now()

    # --- comparing --------------------------------------------------------------------

    def compare_ends(self) -> None:
        """Compares the state at the end of all steps. A collective: every rank calls it.

        Raises as ``reduce`` does.
        """
        if self._size == 1:
            return
        self.align()
        own = Told(self.trained.layout, self._state.updates_taken, self.replicas.digest_now())
        row = Extras(0, 0, 1).written(Head(), [], [], 0, own)
        mine = torch.tensor([row], dtype=torch.float64, device="cpu")
        rows = hvd.allgather(mine, name="state.end").tolist()
        told = [Extras(0, 0, 1).read(one).told[0] for one in rows]
        difference = compare(told, samples=0)
        if difference is not None:
            self._verdict.judge(difference, self._state.step, self.rank)
        place = (self._state.step - 1) * self._slice.count
        require_same_samples(exchange(self._read(place), self._size, "read"), place)

    def _compare(self, read: Read) -> None:
        found, samples = self._slice, read.head.samples
        if read.rows and not read.alike(found.whole):
            difference = compare(read.told, found.whole)
            if self._mixed and difference is not None and difference.field == "state":
                self.align()
            elif difference is not None:
                self._undo.undo()  # what differs is looked for in the state before this step
                self._verdict.judge(difference, found.number, self.rank)
        if round(samples) != found.count:
            self._verdict.wrong_count(found.number, samples, found.count)

    def _require_outside_alike(self) -> None:
        number, place = self._slice.number, (self._slice.number - 1) * self._slice.count
        own = [self._outside.told(number), self._read(place), self.roots.divisors]
        modules, samples, divisors = zip(*exchange(own, self._size, "outside"), strict=True)
        require_alike(modules, number)
        require_divisors(divisors, number)
        if self._slice.share or not self._slice.count:
            self._outside.require_held(modules, self.rank, number)
        require_same_samples(samples, place)

    def _forget_backward(self) -> None:
        """What is looked for while the program goes back is looked for no more."""
        self.roots.forget()
        self._hooks.forget()

    def _told(self, own: Own) -> Told:
        if self._size == 1:
            return Told()
        replicas = self.replicas
        return Told(
            trained=self.trained.layout,
            updates=self._state.updates_taken,
            samples=sum(map(digest_of_numbers, own.samples)) & MASK,
            state=replicas.digest if replicas.examine else 0,
        )

    @property
    def _counts_statistics(self) -> bool:
        """Whether what ranks add to statistics is summed: a plain loop's single one needs not."""
        return self._size > 1 or self._slice.units > 0

    @property
    def _weight(self) -> float:
        """This rank's part of the batch; all are alike where there is no data set."""
        if not self._slice.count:
            return 1 / self._size
        return self._slice.share / self._slice.count

    # --- buckets ----------------------------------------------------------------------

    def _deal(self) -> None:
        statistics = len(self._statistics) if self._counts_statistics else 0
        self._extras = Extras(self._metrics, statistics, self._size if self._size > 1 else 0)
        self._buckets = GradientBuckets(
            self.trained.parameters,
            tail=self._extras.length,
            size=self._size,
            check=self.check,
            name=self.trained.name,
        )

    def _drop_buckets(self) -> None:
        if self._buckets is not None:
            self._buckets.close()
            self._buckets = None
