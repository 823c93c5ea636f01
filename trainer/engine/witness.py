"""A witness: a second way to the sum of a step's gradients, told beside the first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn

from trainer.engine.mistake import Mistake


class Witness:
    """Sums the gradients of one step by itself.

    A bucket that is sent twice, or with what it held before, or whose sums end at another place,
    gives the same wrong gradients to all ranks. So in some steps each rank sums the gradients as
    they come, in float64 and each number with a weight of its own; the ranks' sums are told with
    the numbers, and must be what is in the buckets.

    Args:
        parameters: the ids of all parameters, in the order of the buckets.
    """

    def __init__(self, parameters: Iterable[int]) -> None:
        self._numbers = {key: index for index, key in enumerate(parameters)}
        self._sums: list[Tensor] = []

    def compare(self, delivered: Tensor, kept: Tensor | None) -> None:
        """Raises Mistake unless a bucket has kept what backward has delivered."""
        if kept is None or not torch.allclose(delivered, kept, rtol=0.0, atol=0.0, equal_nan=True):
            raise _mistake("a gradient was lost on its way to be summed")

    def saw(self, parameter: Tensor) -> None:
        """Adds a parameter's gradient as it is; it may have none."""
        if parameter.grad is not None:
            number = self._numbers[id(parameter)]
            both = [_weighed(one, number) for one in (parameter.grad, parameter.grad.abs())]
            self._sums.append(torch.stack(both))

    def require(self, parameters: Iterable[nn.Parameter], total: float, tolerance: float) -> None:
        """Raises Mistake when the gradients that these parameters have now are another sum.

        Args:
            parameters: all of them.
            total: the weighted sum that all ranks have told together.
            tolerance: what rounding can explain.
        """
        given = [p for p in parameters if p.grad is not None]
        sums = [_weighed(p.grad, self._numbers[id(p)]) for p in given if p.grad is not None]
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


def _weighed(gradient: Tensor, number: int) -> Tensor:
    """The weighed sum of a parameter's gradient in float64, shape [], on its device.

    What is not finite compares as no difference.

    Args:
        gradient: of any shape.
        number: the parameter's, by which its weights differ from those of others.
    """
    weights = _weights(gradient.device)
    total = weights.new_zeros(())
    for place, run in enumerate(gradient.detach().flatten().split(len(weights))):
        # The fractional parts of multiples of the golden ratio: no two are near each other.
        scale = 1 + (0.6180339887498949 * (number * 7919 + place + 1)) % 1
        total = total + scale * torch.dot(run.to(torch.float64), weights[: len(run)])
    return total


@lru_cache(maxsize=4)
def _weights(device: torch.device) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(2)
    drawn = torch.rand(2**18, generator=generator, dtype=torch.float64, device="cpu")
    return (0.5 + drawn).to(device)
