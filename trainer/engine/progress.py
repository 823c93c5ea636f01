"""The metrics of the steps that a worker applied, until rank 0 has told them.

The metrics of a step travel with its gradients, so every rank knows them. Rank 0 tells
them; the others remember the newest, and whoever becomes rank 0 tells what the one
before may have taken with it. Readers take a step once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

REMEMBERED = 1000  # steps


@dataclass(frozen=True)
class Batch:
    """Metrics of consecutive steps of one generation: ``metrics[name][i]`` is of ``first + i``."""

    generation: int
    first: int
    metrics: dict[str, list[float]]


class StepLog:
    """What has been applied and not told yet, at most the newest ``REMEMBERED`` steps."""

    def __init__(self) -> None:
        self._steps: deque[tuple[int, int, dict[str, float]]] = deque(maxlen=REMEMBERED)

    def add(self, generation: int, step: int, metrics: dict[str, float]) -> None:
        """Notes a step that was applied."""
        self._steps.append((generation, step, metrics))

    def forget_after(self, step: int) -> None:
        """Drops the steps after ``step``: the world goes on from there."""
        while self._steps and self._steps[-1][1] > step:
            self._steps.pop()

    def take(self) -> list[Batch]:
        """Returns everything not told yet, in order, and forgets it."""
        batches: list[Batch] = []
        for generation, step, metrics in self._steps:
            last = batches[-1] if batches else None
            if last is None or not _continues(last, generation, step, metrics):
                last = Batch(generation, step, {name: [] for name in metrics})
                batches.append(last)
            for name, value in metrics.items():
                last.metrics[name].append(value)
        self._steps.clear()
        return batches


def _continues(batch: Batch, generation: int, step: int, metrics: dict[str, float]) -> bool:
    length = max(len(values) for values in batch.metrics.values())
    return (
        batch.generation == generation
        and batch.first + length == step
        and batch.metrics.keys() == metrics.keys()
    )
