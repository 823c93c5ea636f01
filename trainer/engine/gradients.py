"""Gradients in flat buckets, each sent by one allreduce as soon as backward has filled it.

Parameters' ``.grad`` are views into the buckets when the optimizer reads them. A step's
first gradient of a parameter is copied into its bucket while it is in the processor's cache,
which is quicker than to clear the bucket and to add to it; those of further micro-batches
are added there. Horovod sums a bucket over the ranks in place. A few numbers travel with
the gradients in the same buffer: the step's loss and sample count, and the flag by which
all ranks learn at the same step that the world is asked to pause.

A step costs less than with DistributedOptimizer and about what it costs with DDP; see
benchmarks/steady.py, and docs/figures.md for what it found. Most of what Horovod's own threads
took was their cycle of 1 ms, in which all ranks exchange bit masks although nothing is ready:
see containers/patches/0009. Smaller buckets gain nothing on two cores: the sums run on the
processors that backward needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor, nn

BUCKET_BYTES = 4 * 2**20  # see benchmarks/steady.py --only buckets
SHORTEST_NAP = 50e-6  # seconds
LONGEST_NAP = 1e-3  # seconds


class Bucket:
    """A flat buffer, the parameters whose gradients it holds, and what still has to arrive.

    Horovod sums no bfloat16, and a low precision can carry neither sums nor counts
    well: such gradients travel as float32.

    Attributes:
        flat: the gradients; a view of ``wire`` unless their precision is low.
        wire: what is sent: the gradients, then ``extras`` further numbers.
        parameters: in the order in which backward is expected to reach them.
    """

    def __init__(self, parameters: list[nn.Parameter], extras: int) -> None:
        first = parameters[0]
        numel = sum(p.numel() for p in parameters)
        low = first.dtype in (torch.bfloat16, torch.float16)
        dtype = torch.float32 if low else first.dtype
        self.wire = torch.zeros(numel + extras, dtype=dtype, device=first.device)
        self.gradients, self.extras = self.wire[:numel], self.wire[numel:]
        self.flat = self.gradients.to(first.dtype)  # the same memory unless it is low
        self.parameters = parameters
        self.missing = len(parameters)
        views = self.flat.split([p.numel() for p in parameters])
        self.views = {id(p): view.view_as(p) for p, view in zip(parameters, views, strict=True)}
        self.filled = set(self.views)  # whose views hold this step's gradients; zeros at first
        self.bind()

    def bind(self) -> None:
        """Makes the parameters' gradients views into the bucket (again)."""
        for parameter in self.parameters:
            parameter.grad = self.views[id(parameter)]

    def clear(self) -> None:
        """Lets go of the gradients: the first ones that come overwrite what is in the bucket."""
        self.filled.clear()
        for parameter in self.parameters:
            parameter.grad = None

    def take(self, parameter: Tensor) -> None:
        """Backward has added to the parameter's gradient: it goes in the bucket."""
        view = self.views[id(parameter)]
        if parameter.grad is not view:  # the first of a step, or somebody called zero_grad()
            assert parameter.grad is not None
            view.copy_(parameter.grad)
            parameter.grad = view
            self.filled.add(id(parameter))

    def complete(self) -> None:
        """Nothing more will come: what backward did not reach is zero."""
        for key, view in self.views.items():
            if key not in self.filled:
                view.zero_()


class GradientBuckets:
    """All gradients of a model, summed over the world bucket by bucket.

    Args:
        parameters: those with ``requires_grad``, in the model's order.
        extras: how many numbers travel along with each step's gradients.
        bucket_bytes: the size a bucket is filled up to; None for BUCKET_BYTES.
        check: called whenever backward has reached a parameter. It raises to end a backward
            pass whose gradients nobody waits for any more.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        extras: int,
        bucket_bytes: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        trained = [p for p in parameters if p.requires_grad]
        if not trained:
            raise ValueError("the model has no parameter with requires_grad")
        groups = _group(reversed(trained), bucket_bytes or BUCKET_BYTES)
        self._buckets = [
            Bucket(group, extras if i == len(groups) - 1 else 0) for i, group in enumerate(groups)
        ]
        self._check = check
        self._handles: list[int] = []
        self._next = 0  # buckets go out in order, so that all ranks send them alike
        self._armed = False
        self._summed = False
        self._fill: Callable[[], list[float]] | None = None
        self._finish: Callable[[], None] | None = None
        self._of = {id(p): bucket for bucket in self._buckets for p in bucket.parameters}
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def zero(self) -> None:
        """Clears all gradients, and forgets whatever an interrupted step left behind."""
        self._armed = self._summed = False
        self._handles.clear()
        for bucket in self._buckets:
            bucket.clear()

    def disarm(self) -> None:
        """The next backward pass is not the last one of its step after all."""
        self._armed = False

    def arm(
        self, fill: Callable[[], list[float]], finish: Callable[[], None] | None = None
    ) -> None:
        """From now on, a bucket is sent when backward has added to all its parameters.

        Called before the last backward pass of a step, or alone when a rank has no
        sample in a step.

        Args:
            fill: gives the ``extras`` numbers, at the moment the last bucket is sent.
            finish: called at the end of that backward pass, before ``backward()`` returns.
        """
        self._fill = fill
        self._finish = finish
        self._next = 0
        self._armed = True
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)

    def reduce(self) -> list[float]:
        """Sends what backward did not reach, waits for all sums, and returns the summed extras.

        Raises HorovodInternalError when a peer was lost; the gradients mean nothing then.
        """
        while self._next < len(self._buckets):
            self._send()
        self._armed = False
        self._summed = True
        for handle in self._handles:
            _wait(handle)
        self._handles.clear()
        for bucket in self._buckets:
            if bucket.flat is not bucket.gradients:
                bucket.flat.copy_(bucket.gradients)
            bucket.bind()
        numbers: list[float] = self._buckets[-1].extras.tolist()
        return numbers

    def _arrived(self, parameter: Tensor) -> None:
        self._check()
        if self._summed:
            raise RuntimeError(
                "backward() was called again after this step's gradients had been summed over "
                "the workers; a step with several backward passes takes its parts from split()"
            )
        bucket = self._of[id(parameter)]
        bucket.take(parameter)
        if not self._armed:
            return
        if self._finish is not None:
            _at_end_of_backward(self._finish)
            self._finish = None
        bucket.missing -= 1
        while self._next < len(self._buckets) and self._buckets[self._next].missing <= 0:
            self._send()

    def _send(self) -> None:
        bucket = self._buckets[self._next]
        last = self._next == len(self._buckets) - 1
        if last:
            assert self._fill is not None
            bucket.extras.copy_(torch.tensor(self._fill(), dtype=torch.float64))
        bucket.complete()
        if bucket.flat is not bucket.gradients:
            bucket.gradients.copy_(bucket.flat)
        self._handles.append(_allreduce(bucket.wire, f"gradients.{self._next}"))
        self._next += 1


def _at_end_of_backward(callback: Callable[[], None]) -> None:
    engine: Any = torch.autograd.Variable._execution_engine
    engine.queue_callback(callback)


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
    hvd.synchronize(handle)


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
