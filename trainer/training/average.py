"""The moving average of a model: of its parameters, and of its buffers the newest."""

from __future__ import annotations

import copy

import torch
from torch import nn

from trainer.engine.mistake import Mistake


def averaging(model: nn.Module, decay: float) -> nn.Module:
    """Returns what the average of ``model`` begins with: a copy that is not trained.

    Args:
        model: as it is before the first step.
        decay: what of the average stays in each step, above 0 and below 1.
    """
    if not 0 < decay < 1:
        raise Mistake(
            "SW5143", f"ema is {decay}; it is what stays in each step, as 0.999: between 0 and 1"
        )
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def average(into: nn.Module, model: nn.Module, decay: float) -> None:
    """Takes a model's newest parameters and buffers into its average."""
    torch._foreach_lerp_(list(into.parameters()), list(model.parameters()), 1 - decay)
    for own, newest in zip(into.buffers(), model.buffers(), strict=True):
        own.copy_(newest)
