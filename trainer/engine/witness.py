"""A witness: a second way to the sum of a step's gradients, told beside the first."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainer.engine.mistake import Mistake


class Witness:
    """Sums the gradients of one step by itself.

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
            raise _mistake("a gradient was lost on its way to be summed")

    def saw(self, parameter: Tensor) -> None:
        """Adds a parameter's gradient as it is; it may have none."""
        if parameter.grad is not None:
            both = torch.stack([_sum(parameter.grad), _sum(parameter.grad.abs())])
            self._sums.append(both * self._weights[id(parameter)])

    def require(self, parameters: Iterable[nn.Parameter], total: float, tolerance: float) -> None:
        """Raises Mistake when the gradients that these parameters have now are another sum.

        Args:
            parameters: all of them.
            total: the weighted sum that all ranks have told together.
            tolerance: what rounding can explain.
        """
        sums = [_sum(p.grad) * self._weights[id(p)] for p in parameters if p.grad is not None]
        found = float(torch.stack([one.cpu() for one in sums]).sum()) if sums else 0.0
        if math.isfinite(found) and abs(found - total) > tolerance:
            raise _mistake(
                f"the gradients were not summed rightly: they add up to {found:.9g}, and the "
                f"workers' own to {total:.9g}"
            )

    def total(self) -> tuple[float, float]:
        """The weighted sum of all gradients, and that of their magnitudes."""
        if not self._sums:
            return 0.0, 0.0
        total, magnitude = torch.stack([one.cpu() for one in self._sums]).sum(0).tolist()
        return total, magnitude


def _mistake(what: str) -> Mistake:
    fault = "this is a fault of Swell, of Horovod or of a machine's memory"
    return Mistake("SW5112", f"{what}; {fault}")


def _sum(tensor: Tensor) -> Tensor:
    """The sum in float64. Infinite ones, and those that are no number, compare as no difference."""
    return tensor.sum(dtype=torch.float64)
