"""Gradients in flat buckets, each sent by one allreduce as soon as backward has filled it.

A step's first gradient of a parameter is copied into its bucket while it is in the processor's
cache, which is quicker than to clear the bucket and to add to it; those of further micro-batches
are added there. Horovod sums a bucket over the ranks in place. With its gradients a bucket carries
which parameters were reached: what no rank has reached keeps no gradient, as in a plain loop. The
last bucket goes out when all of backward is over, and carries the step's numbers: its loss, its
samples, and the flag by which all ranks learn at the same step that the world is asked to pause.

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
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError
from torch import Tensor, nn

from trainer.engine.backward import BackwardEnd
from trainer.engine.mistake import Mistake

BUCKET_BYTES = 4 * 2**20  # see benchmarks/steady.py --only buckets
SHORTEST_NAP = 50e-6  # seconds
LONGEST_NAP = 1e-3  # seconds
_FAULT = "this is a fault of Swell, of Horovod or of a machine's memory"


class Bucket:
    """A flat buffer, the parameters whose gradients it holds, and what still has to arrive.

    Horovod sums no bfloat16, and a low precision can carry neither sums nor counts
    well: such gradients travel as float32.

    Attributes:
        flat: the gradients; a view of ``wire`` unless their precision is low.
        wire: what is sent: the gradients, a flag for each parameter, then ``tail`` numbers.
        reached, tail: views of it.
        parameters: in the order in which backward is expected to reach them.
        expected, missing: how many arrivals there are in a backward pass, and still to come.
        sent: whether it is on its way, or has been.
    """

    def __init__(self, parameters: list[nn.Parameter], tail: int) -> None:
        first = parameters[0]
        numel = sum(p.numel() for p in parameters)
        low = first.dtype in (torch.bfloat16, torch.float16)
        dtype = torch.float32 if low else first.dtype
        room = numel + len(parameters) + tail
        self.wire = torch.zeros(room, dtype=dtype, device=first.device)
        self.gradients = self.wire[:numel]
        self.reached = self.wire[numel : numel + len(parameters)]
        self.tail = self.wire[numel + len(parameters) :]
        self.flat = self.gradients.to(first.dtype)  # the same memory unless it is low
        self.parameters = parameters
        self.expected = self.missing = len(parameters)
        self.sent = False
        views = self.flat.split([p.numel() for p in parameters])
        self.views = [_shaped(view, p) for p, view in zip(parameters, views, strict=True)]
        self.places = {id(p): view for p, view in zip(parameters, self.views, strict=True)}

    def clear(self) -> None:
        """Lets go of the gradients: the first ones that come overwrite what is in the bucket."""
        self.sent = False
        for parameter in self.parameters:
            parameter.grad = None

    def take(self, parameter: Tensor) -> None:
        """Backward has added to the parameter's gradient: it goes in the bucket."""
        view = self.places[id(parameter)]
        if parameter.grad is not view:  # the first of a step, or somebody called zero_grad()
            assert parameter.grad is not None
            view.copy_(parameter.grad)
            parameter.grad = view

    def pack(self) -> None:
        """Makes the wire ready to be sent. What still comes, comes in memory of its own."""
        reached = [parameter.grad is not None for parameter in self.parameters]
        for parameter, view, one in zip(self.parameters, self.views, reached, strict=True):
            if one:
                self.take(parameter)  # where the program has set it by itself
                parameter.grad = None
            else:
                view.zero_()
        if all(reached):
            self.reached.fill_(1.0)
        else:
            self.reached.copy_(torch.tensor(reached, device="cpu"))
        if self.flat is not self.gradients:
            self.gradients.copy_(self.flat)
        self.sent = True

    def unpack(self, reached: Iterator[float]) -> None:
        """Makes what was summed the parameters' gradients; None for what no rank has reached.

        Args:
            reached: by how many ranks, for each parameter; as many are taken as there are.
        """
        if self.flat is not self.gradients:
            self.flat.copy_(self.gradients)
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view if next(reached) > 0.5 else None


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
        groups = _group(reversed(trained), bucket_bytes or BUCKET_BYTES)
        self._buckets = [
            Bucket(group, tail if i == len(groups) - 1 else 0) for i, group in enumerate(groups)
        ]
        self._alone = size == 1
        self._check = check
        self._name = name
        self._handles: list[int] = []
        self._next = 0  # buckets go out in order, so that all ranks send them alike
        self._armed = False
        self._summed = False
        self._late = False
        self._passes = 0
        self._witness: Witness | None = None
        self._kept: dict[int, Tensor] = {}
        self.broken: Mistake | None = None
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
        self._armed = self._summed = self._late = False
        self._passes = 0
        self._next = 0
        self.broken = None
        self.open = True
        self._end.forget()
        self._handles.clear()
        for bucket in self._buckets:
            bucket.clear()
            for parameter in bucket.parameters:
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
    def tail_device(self) -> torch.device:
        """Where the numbers travel from."""
        return self._buckets[-1].wire.device

    @property
    def set_by_hand(self) -> bool:
        """Whether parameters have gradients though no backward pass has reached any."""
        return not self._passes and any(
            p.grad is not None for bucket in self._buckets for p in bucket.parameters
        )

    def reduce(self, fill: Callable[[bool], Tensor]) -> Tensor:
        """Sends what was not sent yet, waits for all sums, and returns the summed numbers.

        Args:
            fill: gives the ``tail`` numbers of this rank: any float type, shape [tail]; it is
                told whether gradients of this rank are left for the second round.

        Returns the sums, shape [tail]; the gradients are not the parameters' yet (see ``settle``).
        Raises HorovodInternalError when a peer was lost; the gradients mean nothing then.
        """
        while self._next < len(self._buckets) - 1:
            self._send()
        for bucket in self._buckets:
            if self._late or not bucket.sent:
                self._account(bucket)
        self._buckets[-1].tail.copy_(fill(self._late))
        self._send()
        self._armed = False
        self._summed = self._learned = True
        self._wait_for_all()
        return self._buckets[-1].tail

    def reduce_late(self) -> None:
        """The second round: all ranks call it, if any has gradients left for it."""
        late = [any(p.grad is not None for p in bucket.parameters) for bucket in self._buckets]
        wanted = torch.tensor(late, dtype=torch.int32, device="cpu")
        if not self._alone:
            wanted = hvd.allreduce(wanted, op=hvd.Max, name="gradients.late")
        first: dict[int, Tensor] = {}
        for index, want in enumerate(wanted.tolist()):
            if not want:
                continue
            bucket = self._buckets[index]
            first[index] = bucket.wire.clone()
            bucket.pack()
            bucket.tail.zero_()
            self._submit(bucket, f"gradients.late.{index}")
        self._wait_for_all()
        for index, wire in first.items():
            self._buckets[index].wire.add_(wire)

    def settle(self, divide_by: float = 1.0) -> None:
        """Makes the sums the parameters' gradients, each divided by a number."""
        buckets = self._buckets
        if divide_by != 1.0:
            for bucket in buckets:
                bucket.gradients.div_(divide_by)
        flags = torch.cat([bucket.reached.to(torch.float32) for bucket in buckets])
        counts = iter(flags.tolist())  # of all at once: each is a wait for the device
        for bucket in buckets:
            bucket.unpack(counts)

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
        found = self._witness.of([p for b in self._buckets for p in b.parameters])
        coarsest = max(torch.finfo(bucket.flat.dtype).eps for bucket in self._buckets)
        if math.isfinite(found) and abs(found - total) > (4 * size + 8) * coarsest * magnitude:
            self.forget()
            raise Mistake(
                "SW5112",
                f"the gradients were not summed rightly: they add up to {found:.9g}, and the "
                f"workers' own to {total:.9g}; {_FAULT}",
            )

    def forget(self) -> None:
        """The step is not taken: no parameter has a gradient."""
        for bucket in self._buckets:
            bucket.clear()

    # --- hooks ------------------------------------------------------------------------

    def _arrived(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if not self.open or gradient is None:  # or a hook of the program has taken it away
            return
        self._check()
        if self._summed:
            raise self._broken_by(
                "SW5109",
                "backward() was called again after this step's gradients had been summed over the "
                "workers: add up losses of the same samples before one backward(); let several "
                "passes loop over split() itself, and not over a list of it; take a step for each "
                "sum (a GAN, SAM); and use torch.autograd.grad for gradients of inputs",
            )
        if gradient.is_sparse:
            raise self._broken_by(
                "SW5110",
                f"the gradient of {self._name(parameter)} is sparse, and sparse gradients are not "
                "summed over workers; make it dense (nn.Embedding(…, sparse=False))",
            )
        bucket = self._of[id(parameter)]
        self._end.reached()
        if id(parameter) in self._kept:
            self._require_cleared(parameter, writes=1)
        if bucket.sent:
            self._late = True
        else:
            bucket.take(parameter)
            if self._witness is not None:
                self._witness.compare(gradient, parameter.grad)
        if not self._armed:
            return
        self._count(parameter, bucket)
        bucket.missing -= 1
        if self._learned:
            while self._next < len(self._buckets) - 1 and self._buckets[self._next].missing <= 0:
                self._send()

    def _require_cleared(self, parameter: Tensor, writes: int) -> None:
        """Raises Mistake when a gradient of the step before has not been cleared.

        Args:
            parameter: whose gradient it is.
            writes: how many have been made to it since, if nobody has zeroed it.
        """
        kept = self._kept.pop(id(parameter))
        if parameter.grad is kept and kept._version == writes:
            raise self._broken_by(
                "SW5125",
                f"the gradient of {self._name(parameter)} from the step before was neither used by "
                "an optimizer nor cleared: gradients add up in the parts of one step, over "
                "split(), and not over several; take a larger global batch",
            )

    def _broken_by(self, id: str, text: str) -> Mistake:
        self.broken = Mistake(id, text)
        return self.broken

    def _ended(self, broken: bool) -> None:
        """A backward pass is over; ``broken`` says that one before it in this step raised."""
        if not self.open:
            return
        self._passes += 1
        if broken and self._next:
            raise self._broken_by(
                "SW5126",
                "backward() was tried again after it had failed, when some of its gradients were "
                "on their way already; let the step fail, and take a smaller micro-batch",
            )
        if self._armed and self._finish is not None:
            self._finish()

    def _count(self, parameter: Tensor, bucket: Bucket) -> None:
        """Learns how often a parameter is reached: the next step waits for as many arrivals."""
        count = self._arrivals.get(id(parameter), 0) + 1
        self._arrivals[id(parameter)] = count
        if count > self._most[id(parameter)]:
            self._most[id(parameter)] = count
            bucket.expected += 1

    # --- sending ----------------------------------------------------------------------

    def _send(self) -> None:
        bucket = self._buckets[self._next]
        if self._next < len(self._buckets) - 1:
            self._account(bucket)
        bucket.pack()
        self._submit(bucket, f"gradients.{self._next}")
        self._next += 1

    def _account(self, bucket: Bucket) -> None:
        """Has a last look at the gradients of a bucket that is about to be sent."""
        if self._kept:
            for parameter in bucket.parameters:
                if id(parameter) in self._kept:
                    self._require_cleared(parameter, writes=0)
        if self._witness is not None:
            for parameter in bucket.parameters:
                self._witness.saw(parameter)

    def _submit(self, bucket: Bucket, name: str) -> None:
        if not self._alone:
            self._handles.append(_allreduce(bucket.wire, name))

    def _wait_for_all(self) -> None:
        for handle in self._handles:
            _wait(handle)
        self._handles.clear()


class Witness:
    """A second way to the sum of a step's gradients: by what backward has delivered.

    A bucket that is sent twice, or with what it held before, or whose sums end at another place,
    gives the same wrong gradients to all ranks. So in some steps each rank sums the gradients as
    they come, in float64 and with a weight for each parameter; the ranks' sums are told with the
    numbers, and must be what is in the buckets.

    Args:
        parameters: the ids of all parameters, in the order of the buckets.
    """

    def __init__(self, parameters: Iterable[int]) -> None:
        self._weights = {key: 1 + index % 7 for index, key in enumerate(parameters)}
        self._sums: list[Tensor] = []

    def compare(self, delivered: Tensor, kept: Tensor | None) -> None:
        """Raises Mistake unless a bucket has kept what backward has delivered."""
        if kept is None or not torch.allclose(delivered, kept, rtol=0.0, atol=0.0, equal_nan=True):
            raise Mistake("SW5112", f"a gradient was lost on its way to be summed; {_FAULT}")

    def saw(self, parameter: Tensor) -> None:
        """Adds a parameter's gradient as it is; it may have none."""
        if parameter.grad is not None:
            both = torch.stack([_sum(parameter.grad), _sum(parameter.grad.abs())])
            self._sums.append(both * self._weights[id(parameter)])

    def of(self, parameters: Iterable[nn.Parameter]) -> float:
        """The weighted sum of the gradients that these parameters have now."""
        sums = [_sum(p.grad) * self._weights[id(p)] for p in parameters if p.grad is not None]
        return float(torch.stack([one.cpu() for one in sums]).sum()) if sums else 0.0

    def total(self) -> tuple[float, float]:
        """The weighted sum of all gradients, and that of their magnitudes."""
        if not self._sums:
            return 0.0, 0.0
        total, magnitude = torch.stack([one.cpu() for one in self._sums]).sum(0).tolist()
        return total, magnitude


def _sum(tensor: Tensor) -> Tensor:
    """The sum in float64. Infinite ones, and those that are no number, compare as no difference."""
    return tensor.sum(dtype=torch.float64)


def _shaped(flat: Tensor, parameter: Tensor) -> Tensor:
    """A flat tensor as a gradient of a parameter: in the order in which that is in memory.

    A fused optimizer walks both as they lie there, whatever their strides are.
    """
    dense = 1
    for stride, size in sorted(zip(parameter.stride(), parameter.shape, strict=True)):
        if size != 1 and stride != dense:
            return flat.view(parameter.shape)  # it has gaps, or overlaps itself
        dense *= size
    return flat.as_strided(parameter.shape, parameter.stride())


def _allreduce(tensor: Tensor, name: str) -> int:
    handle: Any = hvd.allreduce_async_(tensor, op=hvd.Sum, name=name)
    return int(handle)


def _wait(handle: int) -> None:
    """Waits for a collective, with sleeps that grow with the wait.

    Horovod's own wait wakes 10,000 times a second: on a machine with more workers than
    cores that costs those who still compute a third of the time.
    """
    began = time.perf_counter()
    while not hvd.poll(handle):
        waited = time.perf_counter() - began
        time.sleep(min(max(waited / 8, SHORTEST_NAP), LONGEST_NAP))
    try:
        hvd.synchronize(handle)
    except HorovodInternalError as error:
        if "Mismatched" in str(error):  # the ranks' buckets are not alike, so nobody was lost
            raise Mistake(
                "SW5111",
                "the workers do not train the same parameters: requires_grad, their shapes or "
                f"their precision differ between ranks ({error})",
            ) from None
        raise


def _group(parameters: Iterable[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """Runs of parameters of one dtype and device, each up to ``bucket_bytes``."""
    groups: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        alike = bool(groups) and (
            groups[-1][0].dtype == parameter.dtype and groups[-1][0].device == parameter.device
        )
        if not alike or size > room:
            groups.append([])
            room = bucket_bytes
        groups[-1].append(parameter)
        room -= size
    return groups
