"""What a loop of the program's own goes back from: no mean over a worker's own samples alone.

With DistributedDataParallel, which averages gradients, that is the habit. Here they are summed, so
a loss is a sum, divided by the samples of all workers. A mean over the samples of one, as it is,
would count as often as there are workers. In the steps that are examined, it is looked for where
``backward()`` begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trainer.engine.mistake import Mistake

_MEAN = 1  # torch's number for reduction="mean"
_ADDS = ("AddBackward0", "SubBackward0")
_SAME = ("LogSoftmaxBackward0", "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0")


class Roots:
    """Looks at what ``torch.autograd.backward`` is called with, in one step at a time."""

    def __init__(self) -> None:
        self._watching = False
        self._original: Any = torch.autograd.backward
        self._found = ""

    def watch(self, share: int, count: int) -> None:
        """A step begins.

        Args:
            share: how many samples of it are this rank's.
            count: how many all ranks have.
        """
        self.forget()
        self._found = ""
        if not 0 < share < count:
            return
        self._original = original = torch.autograd.backward

        def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            for one in (tensors,) if isinstance(tensors, Tensor) else tensors:
                self._found = self._found or mean_in(one, share, count)
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
        if self._found and not (counted and self._found == _DIVIDED):
            raise Mistake(
                "SW5168",
                f"step {number}: backward() begins at {self._found}, and gradients are summed over "
                "the workers, not averaged, so how much a sample counts would depend on how many "
                "workers there are: write a sum over samples, divided by step.batch_size, or a sum "
                "and step.mean_over(count)",
            )


_MEAN_OF_OWN = "a mean over the samples of one worker"
_DIVIDED = "a sum over the samples of one worker, divided by their number"


def mean_in(loss: Any, share: int, count: int) -> str:
    """Which mean over one worker's samples a loss is, or has as an addend; "" for none.

    Args:
        loss: what is gone back from.
        share: how many samples are this rank's.
        count: how many all ranks have.
    """
    for node in _addends(getattr(loss, "grad_fn", None)):
        divided = node.name() == "DivBackward0" and _number(node) == share
        summed = node.next_functions[0][0] if divided else None
        if summed is not None and summed.name() == "SumBackward0" and _over(summed, share, count):
            return _DIVIDED
        if _is_mean(node) and _over(node, share, count):
            return _MEAN_OF_OWN
    return ""


def _addends(node: Any) -> Iterator[Any]:
    """What is added up to one number."""
    if node is not None and node.name() in _ADDS:
        for following, _ in node.next_functions:
            yield from _addends(following)
    elif node is not None:
        yield node


def _is_mean(node: Any) -> bool:
    means = node.name().startswith("MeanBackward")
    return means or getattr(node, "_saved_reduction", None) == _MEAN


def _number(node: Any) -> float | None:
    """What a node divides by, if that is one number."""
    other = node._saved_other
    return float(other) if isinstance(other, Tensor) and other.numel() == 1 else None


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
