"""Gradients in flat buckets, each sent by one allreduce as soon as backward has filled it.

A step's first gradient of a parameter is copied into its bucket while it is in the processor's
cache, which is quicker than to clear the bucket and to add to it; those of further micro-batches
are added there. Horovod sums a bucket over the ranks in place. A rank that is alone has nothing to
sum, and leaves its gradients where they are. The last bucket goes out when all of backward is over.
It carries which parameters were reached: what no rank has reached keeps no gradient, as in a plain
loop. And it carries the step's numbers: its loss, its samples, the norm of each rank's gradients,
and the flag by which all ranks learn at the same step that the world is asked to pause.

A parameter may be reached several times in one backward pass, when a block that is used several
times is recomputed. How often is learned from the steps before, so a bucket goes out early if it
is likely to be complete. Where that was wrong, the parameter's gradient is a new tensor by then:
whatever is being sent is never added to. What came late is summed in a second round, on all ranks.

A step costs less than with DistributedOptimizer and about what it costs with DDP; see
benchmarks/steady.py, and docs/figures.md for what it found. Most of what Horovod's own threads
took was their cycle of 1 ms, in which all ranks exchange bit masks although nothing is ready:
see containers/patches/0009. Smaller buckets gain nothing on two cores: the sums run on the
processors that backward needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import horovod.torch as hvd
import torch
from torch import Tensor, nn

from trainer.engine.backward import BackwardEnd, current_task
from trainer.engine.bucket import Bucket, Flat, Loose, grouped, norm_of
from trainer.engine.mistake import Mistake
from trainer.engine.wires import Wires
from trainer.engine.witness import Witness

BUCKET_BYTES = 4 * 2**20  # see benchmarks/steady.py --only buckets


class GradientBuckets:
    """All gradients of a model, summed over the world bucket by bucket.

    Args:
        parameters: those with ``requires_grad``, in the model's order; at least one.
        tail: how many numbers travel along with each step's gradients.
        size: how many ranks the world has. One alone sends nothing.
        bucket_bytes: the size a bucket is filled up to; None for BUCKET_BYTES.
        check: called whenever backward has reached a parameter. It raises to end a backward
            pass whose gradients nobody waits for any more.
        name: names a parameter, for errors.

    Attributes:
        broken: what a hook has raised in this step; the program may have caught it.
        open: whether a step is running; what backward does between two is the program's own.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        tail: int,
        size: int,
        bucket_bytes: int | None = None,
        check: Callable[[], None] = lambda: None,
        name: Callable[[Tensor], str] = lambda parameter: "a parameter",
    ) -> None:
        trained = list(parameters)
        groups = grouped(reversed(trained), bucket_bytes or BUCKET_BYTES)
        last, room = len(groups) - 1, len(trained) + tail
        kind = Loose if size == 1 else Flat
        self._buckets = [kind(group, room * (i == last)) for i, group in enumerate(groups)]
        self._alone = size == 1
        self._check = check
        self._name = name
        self._wires = Wires()
        self._next = 0  # buckets go out in order, so that all ranks send them alike
        self._armed = False
        self._summed = False
        self._late = False
        self._passes = 0
        self._witness: Witness | None = None
        self._kept: dict[int, Tensor] = {}
        self._unreached = False  # whether a backward pass is still to come, in an examined step
        self._between: list[tuple[Tensor, Tensor, int]] = []  # see _require_untouched
        self._reached: list[float] = []  # by how many ranks, for each parameter of the buckets
        self._norm: Tensor | None = None  # of what this rank has sent; at most their sum
        self.broken: Exception | None = None
        self.open = False
        self._finish: Callable[[], None] | None = None
        self._end = BackwardEnd(self._ended)
        self._of = {id(p): bucket for bucket in self._buckets for p in bucket.parameters}
        self._arrivals: dict[int, int] = {}  # in this backward pass
        self._most = dict.fromkeys(self._of, 1)  # that there were in one
        self._learned = False  # whether there was one
        self._hooks = [p.register_post_accumulate_grad_hook(self._arrived) for p in trained]

    def close(self) -> None:
        """Lets go of the parameters; they keep no gradient."""
        for hook in self._hooks:
            hook.remove()
        for bucket in self._buckets:
            bucket.clear()

    def zero(self, witness: bool = False, unused: Iterable[nn.Parameter] = ()) -> None:
        """Clears all gradients, and forgets whatever an interrupted step left behind.

        Args:
            witness: whether the step's sum is checked by a second one (see ``witnessed``).
            unused: parameters whose gradients no optimizer has used. What the program does not
                clear of them it means to add to, and that is refused.
        """
        kept = {id(p): p.grad.clone() for p in unused if p.grad is not None}
        self._kept = {key: gradient for key, gradient in kept.items() if bool(gradient.any())}
        self._witness = Witness(self._of) if witness else None
        self._unreached = witness
        self._between = []
        self._armed = self._summed = self._late = False
        self._passes = 0
        self._next = 0
        self.broken = None
        self.open = True
        self._end.forget()
        self._wires.forget()
        self._reached.clear()
        self._norm = None
        for bucket in self._buckets:
            bucket.clear()
            for parameter in bucket.parameters if kept else ():
                parameter.grad = kept.get(id(parameter))

    def disarm(self) -> None:
        """The next backward pass is not the last one of its step after all."""
        self._armed = False

    def arm(self, finish: Callable[[], None] | None = None) -> None:
        """From now on, a bucket is sent when backward has added to all its parameters.

        Called before the last backward pass of a step, or alone when a rank has no
        sample in a step.

        Args:
            finish: called at the end of that backward pass, before ``backward()`` returns.
        """
        self._finish = finish
        self._armed = True
        self._arrivals.clear()
        for bucket in self._buckets:
            bucket.missing = bucket.expected

    @property
    def passes(self) -> int:
        """How many backward passes of this step have reached a parameter, and ended."""
        return self._passes

    @property
    def set_by_hand(self) -> bool:
        """Whether parameters have gradients though no backward pass has reached any."""
        return not self._passes and any(
            p.grad is not None for bucket in self._buckets for p in bucket.parameters
        )

    def reduce(
        self, fill: Callable[[bool], list[float]], norm_at: int | None = None
    ) -> list[float]:
        """Sends what was not sent yet, waits for all sums, and returns the summed numbers.

        Args:
            fill: gives the ``tail`` numbers of this rank; it is told whether gradients of this rank
                are left for the second round.
            norm_at: the number that the norm of this rank's gradients is added to: not less than
                their norm, and infinite or NaN if one of them is.

        Returns the numbers' sums; the gradients are not the parameters' yet (see ``settle``).
        Raises HorovodInternalError when a peer was lost; the gradients mean nothing then.
        """
        last = self._buckets[-1]
        while self._next < len(self._buckets) - 1:
            self._send()
        for bucket in self._buckets:
            if self._late or not bucket.sent:
                self._account(bucket)
        numbers = fill(self._late)
        self._pack(last)
        count = len(self._reached)
        place = None if norm_at is None else count + norm_at
        last.fill_tail([*self._reached, *numbers], place, self._norm)
        self._submit(last.contents, f"gradients.{self._next}")
        self._next += 1
        self._armed = False
        self._summed = self._learned = True
        self._wait_for_all()
        summed: list[float] = last.tail.tolist()
        self._reached = summed[:count]
        return summed[count:]

    def reduce_late(self) -> None:
        """The second round: all ranks call it, if any has gradients left for it."""
        late = [p.grad is not None for bucket in self._buckets for p in bucket.parameters]
        wanted = torch.tensor(late, dtype=torch.int32, device="cpu")
        if not self._alone:
            wanted = hvd.allreduce(wanted, op=hvd.Max, name="gradients.late")
        self._reached = [a + b for a, b in zip(self._reached, wanted.tolist(), strict=True)]
        for index, want in enumerate(wanted.split([len(one.parameters) for one in self._buckets])):
            if want.any():
                self._submit(self._buckets[index].pack_late(), f"gradients.late.{index}")
        self._wait_for_all()
        for bucket in self._buckets:
            bucket.join()

    def settle(self, divide_by: float = 1.0) -> None:
        """Makes the sums the parameters' gradients, each divided by a number."""
        start = 0
        for bucket in self._buckets:
            if divide_by != 1.0:
                bucket.divide(divide_by)
            stop = start + len(bucket.parameters)
            bucket.unpack(self._reached[start:stop])
            start = stop

    def norm(self) -> float:
        """The norm of all gradients, once they are settled; infinite or NaN if one of them is."""
        parameters = (p for bucket in self._buckets for p in bucket.parameters)
        norms = [norm_of(p.grad).double() for p in parameters if p.grad is not None]
        return math.hypot(*torch.stack(norms).tolist()) if norms else 0.0

    def witnessed(self) -> tuple[float, float]:
        """This rank's share of the second sum, and of its magnitude; 0 without a witness."""
        return (0.0, 0.0) if self._witness is None else self._witness.total()

    def require_witnessed(self, total: float, magnitude: float, size: int) -> None:
        """Compares the parameters' gradients with the ranks' second sum.

        Raises Mistake, and takes the gradients away, when they differ by more than rounding can
        explain.
        """
        if self._witness is None:
            return
        coarsest = max(torch.finfo(bucket.parameters[0].dtype).eps for bucket in self._buckets)
        tolerance = (4 * size + 8) * coarsest * magnitude
        try:
            parameters = [p for bucket in self._buckets for p in bucket.parameters]
            self._witness.require(parameters, total, tolerance)
        except Mistake:
            self.forget()
            raise

    def forget(self) -> None:
        """The step is not taken: no parameter has a gradient."""
        for bucket in self._buckets:
            bucket.clear()

    # --- hooks ------------------------------------------------------------------------

    def _arrived(self, parameter: Tensor) -> None:
        """Backward has added to a parameter's gradient: for each, in each pass, so in few calls."""
        gradient = parameter.grad
        if gradient is None or not self.open:  # or a hook of the program has taken it away
            return
        try:
            self._check()
            if self._summed or self._unreached or gradient.is_sparse:
                self._require_expected(parameter, gradient)
            # Not before the hooks of its last parameter are over, which may change its gradient.
            if self._armed and self._learned:
                buckets, last = self._buckets, len(self._buckets) - 1
                while self._next < last and buckets[self._next].missing <= 0:
                    self._send()
            if current_task() != self._end.task:
                self._end.reached()
            key = id(parameter)
            bucket = self._of[key]
            if key in self._kept:
                self._require_cleared(parameter, writes=1)
            if bucket.sent:
                self._late = True
            else:
                if gradient is not bucket.places.get(key, gradient) or gradient.requires_grad:
                    bucket.take(parameter)
                if self._witness is not None:
                    self._witness.compare(gradient, parameter.grad)
            if self._armed:
                bucket.missing -= 1
                # How often it is reached is learned: the next step waits for as many arrivals.
                count = self._arrivals[key] = self._arrivals.get(key, 0) + 1
                if count > self._most[key]:
                    self._most[key] = count
                    bucket.expected += 1
        except Exception as error:
            self.broken = error
            raise

    def _require_expected(self, parameter: Tensor, gradient: Tensor) -> None:
        """Raises Mistake for a gradient that comes too late, is sparse, or adds to another's."""
        if self._summed:
            raise Mistake(
                "SW5109",
                "backward() was called again after this step's gradients had been summed over the "
                "workers: add up losses of the same samples before one backward(); let several "
                "passes loop over split() itself, and neither over a list of it nor ahead of it; "
                "take a step for each sum (a GAN, SAM); and use torch.autograd.grad for gradients "
                "of inputs",
            )
        if gradient.is_sparse:
            raise Mistake(
                "SW5110",
                f"the gradient of {self._name(parameter)} is sparse, and sparse gradients are not "
                "summed over workers; make it dense (nn.Embedding(…, sparse=False))",
            )
        self._unreached = False
        self._require_untouched(parameter)
        if not self._passes:
            self._require_unset(parameter)

    def _require_unset(self, first: Tensor) -> None:
        """Raises Mistake when the program has set gradients before backward reaches the first one.

        Zeros are nothing to add.
        """
        for parameter in (p for bucket in self._buckets for p in bucket.parameters):
            if parameter is first or parameter.grad is None or id(parameter) in self._kept:
                continue
            if bool(parameter.grad.any()):
                raise Mistake(
                    "SW5161",
                    f"the gradient of {self._name(parameter)} was set before backward(), which "
                    "adds to it, so it would count once for each worker; add it after backward() "
                    "and the loop over split(), when gradients are summed; what depends on a "
                    "worker's samples belongs into the loss",
                )

    def _require_untouched(self, first: Tensor) -> None:
        """Raises Mistake when the program has changed gradients between two backward passes.

        Of the second one ``first`` is what it has reached by now: that is one write to its
        gradient, or to all those that share its memory.
        """
        its = self._of[id(first)]
        for parameter, gradient, version in self._between:
            writes = parameter is first or (not self._alone and self._of[id(parameter)] is its)
            replaced = parameter is not first and parameter.grad is not gradient
            if replaced or gradient._version > version + writes:
                raise Mistake(
                    "SW5166",
                    f"the gradient of {self._name(parameter)} was changed between two parts of a "
                    "step (clipped, scaled or cleared): there it is a sum over some samples of one "
                    "worker, which depends on how the batch was split; do it after the loop over "
                    "split(), when gradients are summed",
                )

    def _require_cleared(self, parameter: Tensor, writes: int) -> None:
        """Raises Mistake when a gradient of the step before has not been cleared.

        Args:
            parameter: whose gradient it is.
            writes: how many have been made to it since, if nobody has zeroed it.
        """
        kept = self._kept.pop(id(parameter))
        if parameter.grad is kept and kept._version == writes:
            raise Mistake(
                "SW5125",
                f"the gradient of {self._name(parameter)} from the step before was neither used by "
                "an optimizer nor cleared: call optimizer.step() in every step, on all workers; to "
                "add up gradients take a larger global batch, in parts by split()",
            )

    def _ended(self, broken: bool) -> None:
        """A backward pass is over; ``broken`` says that one before it in this step raised."""
        if not self.open:
            return
        self._passes += 1
        if self._witness is not None and not self._armed:
            parameters = [p for bucket in self._buckets for p in bucket.parameters]
            self._between = [(p, p.grad, p.grad._version) for p in parameters if p.grad is not None]
            self._unreached = True
        if broken and self._next:
            self.broken = Mistake(
                "SW5126",
                "backward() was tried again after it had failed, when some of its gradients were "
                "on their way already; let the step fail, and take a smaller micro-batch",
            )
            raise self.broken
        if self._armed and self._finish is not None:
            self._finish()

    # --- sending ----------------------------------------------------------------------

    def _send(self) -> None:
        """Sends the next bucket; the last one goes out with the numbers."""
        bucket = self._buckets[self._next]
        self._account(bucket)
        self._pack(bucket)
        self._submit(bucket.contents, f"gradients.{self._next}")
        self._next += 1

    def _pack(self, bucket: Bucket) -> None:
        self._reached += bucket.pack()
        norm = bucket.norm()
        self._norm = norm if self._norm is None else self._norm + norm

    def _account(self, bucket: Bucket) -> None:
        """Has a last look at the gradients of a bucket that is about to be sent."""
        if self._kept:
            for parameter in bucket.parameters:
                if id(parameter) in self._kept:
                    self._require_cleared(parameter, writes=0)
        if self._witness is not None:
            for parameter in bucket.parameters:
                self._witness.saw(parameter)

    def _submit(self, contents: Sequence[Tensor], name: str) -> None:
        if not self._alone:
            self._wires.send(contents, name)

    def _wait_for_all(self) -> None:
        self._wires.wait()
