"""Parameters in groups by a rule: which of them decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def is_matrix(name: str, parameter: Tensor) -> bool:
    """The usual rule: matrices and kernels decay; norms, biases and single numbers do not."""
    return parameter.ndim >= 2


def decay_groups(
    model: nn.Module,
    weight_decay: float,
    decays: Callable[[str, Tensor], bool] = is_matrix,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: what decays, and what does not.

        torch.optim.AdamW(decay_groups(model, weight_decay=0.1), lr=3e-4)

    Args:
        model: whose parameters; tied ones count once, under their first name. Frozen ones are in
            their groups, too, so they can be thawed later.
        weight_decay: of the first group; the second has 0.
        decays: called with a parameter's name and the parameter: whether it decays.
        settings: of both groups, such as ``lr``.

    Returns one or two groups, none of them empty.
    """
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]
    return [{**group, **settings} for group in groups if group["params"]]
