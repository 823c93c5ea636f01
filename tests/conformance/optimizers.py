"""Torch's optimizers: those that the installed version has, whatever their names."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

REFUSED = {
    "LBFGS": "it evaluates its closure many times in one step, each time with new gradients",
    "SparseAdam": "it takes sparse gradients alone",
}
CLASSES: dict[str, type[Optimizer]] = {
    name: found
    for name, found in sorted(vars(torch.optim).items())
    if isinstance(found, type) and issubclass(found, Optimizer) and found is not Optimizer
}
TRAINED = tuple(name for name in CLASSES if name not in REFUSED)

# Where a learning rate of 0.02 would be none, or what is worth testing is off by default.
_OPTIONS: dict[str, dict[str, Any]] = {
    "Adadelta": {"lr": 1.0},
    "SGD": {"momentum": 0.9},
}

Named = list[tuple[str, nn.Parameter]]


def optimizers(name: str, parameters: Named, groups: bool) -> list[Optimizer]:
    """Returns the optimizer of this name; what takes matrices alone has an AdamW beside it.

    Args:
        name: one of ``TRAINED``.
        parameters: what is trained, with its names.
        groups: whether the last layer has a learning rate and a decay of its own.
    """
    if name != "Muon":
        return [_optimizer(name, parameters, groups)]
    matrices = [(key, one) for key, one in parameters if one.ndim == 2]
    others = [(key, one) for key, one in parameters if one.ndim != 2]
    return [_optimizer("Muon", matrices, groups), _optimizer("AdamW", others, groups)]


def _optimizer(name: str, parameters: Named, groups: bool) -> Optimizer:
    make: Any = CLASSES[name]
    options: dict[str, Any] = {"lr": 0.02}
    if "weight_decay" in inspect.signature(make).parameters:
        options["weight_decay"] = 0.01
    options |= _OPTIONS.get(name, {})
    body = [one for key, one in parameters if not (groups and key.startswith("last"))]
    head = [one for key, one in parameters if groups and key.startswith("last")]
    grouped: list[dict[str, Any]] = [{"params": body}]
    if head:
        grouped.append({"params": head, "lr": options["lr"] / 4, "weight_decay": 0.1})
    optimizer: Optimizer = make(grouped, **options)
    return optimizer
