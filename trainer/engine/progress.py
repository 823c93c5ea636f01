"""How far a worker is, as its agent hears of it: the step, and the metrics of steps.

The metrics of a step travel with its gradients, so every rank knows them. Rank 0 sends
them; the others remember the newest, and whoever becomes rank 0 sends what the one
before may have taken with it. Readers take a step once.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from trainer.engine.generations import Generations
from trainer.engine.portable import Portable
from trainer.protocol import messages

REPORT_EVERY = 0.2  # seconds between two messages
REMEMBERED = 1000  # steps


class StepLog:
    """What has been applied and not sent yet, at most the newest ``REMEMBERED`` steps.

    Args:
        total_steps: of the whole run; None where nobody knows.
    """

    def __init__(self, total_steps: int | None = None) -> None:
        self._total = total_steps
        self._steps: deque[tuple[int, int, dict[str, float]]] = deque(maxlen=REMEMBERED)

    def add(self, generation: int, step: int, metrics: dict[str, float]) -> None:
        """Notes a step that was applied."""
        self._steps.append((generation, step, metrics))

    def forget_after(self, step: int) -> None:
        """Drops the steps after ``step``: the world goes on from there."""
        while self._steps and self._steps[-1][1] > step:
            self._steps.pop()

    def take(self) -> list[messages.Steps]:
        """Returns everything not sent yet, in order, and forgets it."""
        batches: list[messages.Steps] = []
        for generation, step, metrics in self._steps:
            last = batches[-1] if batches else None
            if last is None or not _continues(last, generation, step, metrics):
                empty: dict[str, list[float]] = {name: [] for name in metrics}
                last = messages.Steps(generation, step, empty, self._total)
                batches.append(last)
            for name, value in metrics.items():
                last.metrics[name].append(value)
        self._steps.clear()
        return batches


def _continues(
    batch: messages.Steps, generation: int, step: int, metrics: dict[str, float]
) -> bool:
    length = max(len(values) for values in batch.metrics.values())
    return (
        batch.generation == generation
        and batch.first + length == step
        and batch.metrics.keys() == metrics.keys()
    )


class Progress:
    """Sends how far this worker is: several times a second, and whenever it is asked to.

    Args:
        generations: which world this worker is in.
        state: how many steps it has.
        saving: seconds that this worker would need for its share of a checkpoint.
        total_steps: of the whole run; None where nobody knows.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        generations: Generations,
        state: Portable,
        saving: Callable[[], float],
        total_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._generations = generations
        self._state = state
        self._saving = saving
        self._clock = clock
        self._log = StepLog(total_steps)
        self._sent_at = -math.inf

    def enter(self) -> None:
        """This worker is in another world, which goes on from the state's step."""
        self._log.forget_after(self._state.step)

    def completed(self, metrics: dict[str, float]) -> None:
        """The state's newest step was applied; ``metrics`` may be empty."""
        if metrics:
            self._log.add(self._generations.number, self._state.step, metrics)
        if self._clock() - self._sent_at >= REPORT_EVERY:
            self.send()

    def send(self) -> None:
        """Sends the step, and from rank 0 the metrics of all steps that were not sent yet."""
        generations, send = self._generations, self._generations.channel.send
        if generations.rank == 0:
            for batch in self._log.take():
                send(batch)
        saving = round(self._saving(), 3)
        send(messages.Progress(generations.number, self._state.step, saving))
        self._sent_at = self._clock()
