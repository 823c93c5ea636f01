"""The numbers that a task returns: a loss, and means beside it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.engine.mistake import Mistake


def parted(found: Any) -> tuple[Any, dict[str, Any]]:
    """What ``loss`` has returned: the loss, in no lower precision than float32, and the rest.

    Raises Mistake for a dict without a loss.
    """
    loss, numbers = (found, {})
    if isinstance(found, dict):
        if "loss" not in found:
            raise Mistake("SW5145", f"loss() returned a dict without 'loss': {sorted(found)}")
        numbers = {name: one for name, one in found.items() if name != "loss"}
        loss = found["loss"]
    if isinstance(loss, tuple):
        return (_whole(loss[0]), loss[1]), numbers
    return _whole(loss), numbers


def pairs(numbers: Mapping[str, Any], samples: int) -> dict[str, tuple[Any, Any]]:
    """Means as (sum, count), by name: those that are no pairs yet are means over the samples.

    Raises Mistake for a mean that is not one number.
    """
    found = {}
    for name, one in numbers.items():
        total, count = one if isinstance(one, tuple) else (_whole(one) * samples, samples)
        if isinstance(total, Tensor) and total.numel() != 1:
            raise Mistake(
                "SW5146",
                f"the metric {name!r} has shape {list(total.shape)}; give one number: its mean "
                "over the batch, or (sum, count)",
            )
        found[name] = (total, count)
    return found


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain numbers, finite or not. Raises Mistake, naming it, for what is none."""
    found = {}
    for name, one in metrics.items():
        try:
            found[name] = float(one)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            said = f"the metric {name!r} is {reprlib.repr(one)}; give one number"
            raise Mistake("SW5146", said) from None
    return found


def _whole(number: Any) -> Any:
    """A number in no lower precision than float32."""
    low = isinstance(number, Tensor) and number.dtype in (torch.bfloat16, torch.float16)
    return number.float() if low else number
