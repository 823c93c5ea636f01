"""What a loop of the program's own goes back from: no mean over a worker's own samples alone.

With DistributedDataParallel, which averages gradients, that is the habit. Here they are summed, so
a loss is a sum, divided by the samples of all workers. A mean over the samples of one, as it is,
would count as often as there are workers. In the steps that are examined, it is looked for where
``backward()`` begins. What a worker divides by that is no number of its samples, such as that of
its tokens, is compared with what the others divide by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.engine.mistake import Mistake

_ROUNDING = 1e-3
HALF = 0.5  # the mantissa of a power of two
_MEAN = 1  # torch's number for reduction="mean"
_ADDS = ("AddBackward0", "SubBackward0")
_VIEWS = ("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "ToCopyBackward0")
_SAME = ("LogSoftmaxBackward0", *_VIEWS)


class Roots:
    """Looks at what ``torch.autograd.backward`` is called with, in one step at a time."""

    def __init__(self) -> None:
        self._watching = False
        self._original: Any = torch.autograd.backward
        self._found = ""
        self._divisors: list[float] = []

    def watch(self, share: int, count: int, units: int = 0) -> None:
        """A step begins.

        Args:
            share: how many samples of it are this rank's.
            count: how many all ranks have.
            units: into how many it is cut, if it is: a mean over one is the same in every world.
        """
        self.forget()
        self._found, self._divisors = "", []
        if count and not 0 < share < count:
            return
        self._original = original = torch.autograd.backward

        def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            for one in (tensors,) if isinstance(tensors, Tensor) else tensors:
                self._found = self._found or (mean_in(one, share, count) if count else "")
                self._divisors += [] if units else divisors_in(one)
            original(tensors, *args, **kwargs)

        vars(torch.autograd)["backward"] = backward
        self._watching = True

    def forget(self) -> None:
        """Nobody goes back in this step any more."""
        if self._watching:
            vars(torch.autograd)["backward"] = self._original
            self._watching = False

    def require_sums(self, number: int, counted: bool) -> None:
        """Raises Mistake for a mean over one worker's samples.

        Args:
            number: of the step.
            counted: whether the program says what its loss is a mean over, and so may divide a sum.
        """
        if self._found and not (counted and self._found != _MEAN_OF_OWN):
            raise Mistake(
                "SW5168",
                f"step {number}: backward() begins at {self._found}, and gradients are summed over "
                "the workers, not averaged, so how much a sample counts would depend on how many "
                "workers there are: write a sum over samples, divided by step.batch_size, or a sum "
                "and step.mean_over(count)",
            )
        if counted:
            self._divisors = []

    @property
    def divisors(self) -> list[float]:
        """What its losses were divided by, in order; none where all is divided later."""
        return sorted(self._divisors)


_MEAN_OF_OWN = "a mean over the samples of one worker"
_SCALED = "a mean over the samples of one worker, times a number"
_DIVIDED = "a sum over the samples of one worker, divided by their number"


def require_divisors(told: Sequence[Sequence[float]], number: int) -> None:
    """Raises Mistake when ranks divide their losses by different numbers.

    Args:
        told: the divisors of each rank; one without samples has none.
        number: of the step.
    """
    known = [(rank, one) for rank, one in enumerate(told) if one]
    for rank, other in known[1:]:
        first, mine = known[0][1], other
        if len(first) == len(mine):
            differs = next(
                (both for both in zip(first, mine, strict=True) if not near(*both)), None
            )
        else:  # a rank may have gone back once more than another
            apart = not any(near(one, two) for one in first for two in mine)
            differs = (first[0], mine[0]) if apart else None
        if differs is not None:
            raise Mistake(
                "SW5168",
                f"step {number}: what backward() begins at is divided by {differs[0]:.6g} on rank "
                f"{known[0][0]} and by {differs[1]:.6g} on rank {rank}, and gradients are summed "
                "over the workers, so how much a sample counts would depend on which worker has "
                "it: write a sum, and step.mean_over(count), or divide by what is the same on all "
                "workers, such as step.batch_size (a task returns (sum, count))",
            )


def near(one: float, other: float) -> bool:
    """Whether two divisors are the same, but for rounding."""
    return math.isclose(one, other, rel_tol=_ROUNDING)


def mean_in(loss: Any, share: int, count: int) -> str:
    """Which mean over one worker's samples a loss is, or has as an addend; "" for none.

    Args:
        loss: what is gone back from.
        share: how many samples are this rank's.
        count: how many all ranks have.
    """
    for node, scaled, divisor in _addends(getattr(loss, "grad_fn", None)):
        if near(divisor, count / share):  # so it is weighed by its part of all samples
            continue
        summed = node.next_functions[0][0] if node.name() == "DivBackward0" else None
        if summed is not None and summed.name() == "SumBackward0":
            own = share, math.prod(summed._saved_self_sym_sizes)
            if _number(node) in own and _over(summed, share, count):
                return _DIVIDED
        if _is_mean(node) and _over(node, share, count):
            return _SCALED if scaled else _MEAN_OF_OWN
    return ""


def divisors_in(loss: Any) -> Iterator[float]:
    """What each of a loss's addends is divided by, as far as can be told: times, and by, numbers.

    Args:
        loss: what is gone back from.
    """
    for node, _, divisor in _addends(getattr(loss, "grad_fn", None)):
        at = node
        while at is not None and at.name() in (*_VIEWS, "MulBackward0", "DivBackward0"):
            if at.name() not in _VIEWS:
                number = _number(at)
                learned = any(following for following, _ in at.next_functions[1:])
                if number is None or learned:  # what is learned is compared as parameters are
                    break
                divisor = divisor / (number or 1) if at.name()[0] == "M" else divisor * number
            at = at.next_functions[0][0]
        else:
            divisor *= _counted(at) if at is not None and _is_mean(at) else 1.0
            if divisor != 1.0 and 0 < abs(divisor) < math.inf:
                yield divisor


def _counted(mean: Any) -> float:
    """How many things a mean is over."""
    weight = getattr(mean, "_saved_total_weight", None)
    if weight is not None:
        return float(weight)
    sizes = getattr(mean, "_saved_self_sym_sizes", None)
    if sizes is None and (of := getattr(mean, "_saved_self", None)) is not None:
        sizes = of.shape
    return float(math.prod(sizes or ()))


def _addends(
    node: Any, scaled: bool = False, divisor: float = 1.0, root: bool = True
) -> Iterator[tuple[Any, bool, float]]:
    """What is added up to one number; whether the sum is scaled then, and by what it is divided.

    Divided as for accumulation, by a whole number; anything else may be a weight.
    """
    if node is None:
        return
    # A GradScaler comes last; a factor that is divided again is a weight.
    name, scales, by = node.name(), root and _scales(node), _whole_divisor(node)
    if scales or by or name in _ADDS or name in _VIEWS or name.startswith("Squeeze"):
        for following, _ in node.next_functions:
            told = scaled or scales or bool(by), divisor * (by or 1.0)
            yield from _addends(following, *told, root=False)
    else:
        yield node, scaled, divisor


def _whole_divisor(node: Any) -> float:
    """By which whole number a node divides what is no sum by itself; 0 for any other node."""
    if node.name() != "DivBackward0":
        return 0.0
    below, number = node.next_functions[0][0], _number(node)
    if below is None or below.name().startswith("SumBackward") or number is None:
        return 0.0
    return number if number > 1 and number == round(number) else 0.0


def _scales(node: Any) -> bool:
    """Whether it does what a GradScaler does: times a power of two, which is a float32 tensor.

    Times a number may be what weighs a worker's mean by its part of all samples.
    """
    other = getattr(node, "_saved_other", None) if node.name() == "MulBackward0" else None
    if not isinstance(other, Tensor) or other.numel() != 1 or other.dtype != torch.float32:
        return False
    factor = float(other.detach())
    return factor >= 1 and math.frexp(factor)[0] == HALF


def _is_mean(node: Any) -> bool:
    means = node.name().startswith("MeanBackward")
    return means or getattr(node, "_saved_reduction", None) == _MEAN


def _number(node: Any) -> float | None:
    """What a node divides or multiplies by, if that is one number."""
    other = node._saved_other
    return float(other.detach()) if isinstance(other, Tensor) and other.numel() == 1 else None


def _over(node: Any, share: int, count: int) -> bool:
    """Whether one worker's samples are added up: the first dimension, unless that was flattened."""
    while True:
        following, place = node.next_functions[0]
        about = getattr(following, "_input_metadata", None)
        shape: Any = about[place].shape if about else ()
        if not shape or shape[0] in (share, count):
            return bool(shape) and shape[0] == share
        if following.name() not in _SAME:
            return False
        node = following
