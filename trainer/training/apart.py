"""Whether a task's loss is a mean over samples: that of some samples is that of two parts of them.

A loss that is not, such as one over pairs of samples, a sum, or a mean over what a mask leaves,
depends on how the batch was split, and so on the world. A graph does not tell of all of them
(trainer.training.samplemean), so before the first step it is tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from trainer.engine.mistake import Mistake
from trainer.training.numbers import pairs as pairs_of

SAMPLES = 8  # that it is tried with, at most
_EXACT, _COARSE = 1e-4, 0.1  # of the larger loss: what rounding can explain
_LEAST = 1e-6  # of any loss


def require_mean(loss_of: Callable[[Tensor], Any], samples: Tensor, coarse: bool) -> None:
    """Raises Mistake where the loss of some samples is not that of two parts of them.

    Says nothing where the loss of the same samples is not always the same: of random numbers, the
    step itself will tell. Nor where it is one of all workers' samples, which they have gathered.

    Args:
        loss_of: the loss of some samples, as a mean, or (sum, count).
        samples: int64, shape [n].
        coarse: whether it is computed in a low precision.
    """
    samples = samples[:SAMPLES]
    if len(samples) < 2:
        return
    first = loss_of(samples)
    if _is_gathered(first):
        return
    together = _pair(first, samples)
    del first  # and with it what it holds for a backward pass
    cut = min(max(2, len(samples) // 3 + 1), len(samples) // 2)  # two at least, if there are
    parts = [samples[:cut], samples[cut:]]
    pairs = [_pair(loss_of(part), part) for part in parts]
    whole, apart = _mean([together]), _mean(pairs)
    largest = max(map(abs, [whole, *(_mean([one]) for one in pairs)]))
    off = abs(whole - apart)
    if not math.isfinite(off) or off <= max(largest * (_COARSE if coarse else _EXACT), _LEAST):
        return

    def again(*of: Tensor) -> float:
        return _mean([_pair(loss_of(one), one) for one in of])

    # Where numbers cancel out, the order of samples tells by how much they are rounded.
    if (
        again(samples) != whole
        or again(*parts) != apart
        or off <= 10 * abs(again(samples.flip(0)) - whole)
    ):
        return
    raise Mistake(
        "SW5167",
        f"loss() gives {whole:.6g} for {len(samples)} samples, and {apart:.6g} for {cut} of them "
        f"and the other {len(samples) - cut}: it is no mean over samples, so it would depend on "
        "how the batch is split; return the mean, or (sum, count) of what it is a mean over; and "
        "if it compares samples with each other, as in contrastive learning, set `unit` to as many "
        "as it is to compare: each unit is computed at once, in every world (unit = 0: it may "
        "depend on the world)",
    )


def _pair(loss: Any, samples: Tensor) -> tuple[float, float]:
    """What a loss adds to a sum, and to its count."""
    ((total, count),) = pairs_of({"loss": loss}, len(samples)).values()
    return _plain(total), _plain(count)


def _plain(number: Any) -> float:
    return float(number.detach() if isinstance(number, Tensor) else number)


def _mean(pairs: list[tuple[float, float]]) -> float:
    count = sum(one for _, one in pairs)
    return sum(total for total, _ in pairs) / count if count else math.nan


def _is_gathered(loss: Any) -> bool:
    """Whether a collective of Horovod's is in the graph of a loss."""
    nodes = [getattr(loss[0] if isinstance(loss, tuple) else loss, "grad_fn", None)]
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name().startswith("Horovod"):
            return True
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
    return False
