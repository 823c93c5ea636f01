"""Whether a task's loss is a mean over samples, as far as its graph tells.

A mean over the targets that are not ignored, or one by weights of classes, is right for a whole
batch, and not for the parts of one: how much a sample counts in it depends on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from trainer.engine.mistake import Mistake

_MEAN = 1  # torch's number for reduction="mean"


def require_samples(loss: Tensor, step: int) -> None:
    """Raises Mistake for a mean over something else.

    Args:
        loss: that of some samples, with its graph.
        step: the number of the step that it is of.
    """
    for node in _losses_in(loss):
        weight, targets = float(node._saved_total_weight), node._saved_target.numel()
        if weight != targets:
            raise Mistake(
                "SW5162",
                f"step {step}: loss() has returned a mean over {targets} targets that count as "
                f"{weight:g} (ignore_index, or weights of classes), so it depends on how the batch "
                "was split: return (sum, count), as cross_entropy(…, reduction='sum') and the sum "
                "of what counts",
            )


def _losses_in(loss: Tensor) -> Iterator[Any]:
    """The means of negative log likelihoods that a loss is a sum or a product of."""
    nodes: list[Any] = [loss.grad_fn]
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().startswith("NllLoss"):
            if node._saved_reduction == _MEAN:
                yield node
        elif _gives_a_number(node):
            nodes += [following for following, _ in node.next_functions]


def _gives_a_number(node: Any) -> bool:
    """Whether what a node has computed is one number; a program's own does not tell."""
    return all(math.prod(about.shape) == 1 for about in getattr(node, "_input_metadata", ()))
