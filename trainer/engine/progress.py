"""How far a worker is, as its agent hears of it: the step, and the metrics of steps.

The metrics of a step travel with its gradients, so every rank knows them. Rank 0 sends
them; the others remember the newest, and whoever becomes rank 0 sends what the one
before may have taken with it. Readers take a step once.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from trainer.engine.generations import Generations
from trainer.engine.portable import Portable
from trainer.engine.timing import Ranks, Times
from trainer.protocol import messages

REPORT_EVERY = 0.2  # seconds between two messages
REMEMBERED = 1000  # steps


class Applied(NamedTuple):
    """A step that was applied.

    Attributes:
        generation: in which world.
        step: its number.
        metrics: its sums, by name; only those that were added to.
        seconds: since the step before it in this world; 0 without one.
        samples: of all ranks; 0 without a data set.
        at: when it was completed, in monotonic seconds.
        waited: seconds that this rank has waited for its batches; None where nobody knows.
        accounts: seconds of all ranks, by what they went into (see trainer.engine.timing).
    """

    generation: int
    step: int
    metrics: dict[str, float]
    seconds: float = 0.0
    samples: int = 0
    at: float = 0.0
    waited: float | None = None
    accounts: Mapping[str, float] = {}


class StepLog:
    """What has been applied and not sent yet, at most the newest ``REMEMBERED`` steps.

    Args:
        total_steps: of the whole run; None where nobody knows.
    """

    def __init__(self, total_steps: int | None = None) -> None:
        self._total = total_steps
        self._steps: deque[Applied] = deque(maxlen=REMEMBERED)

    def add(self, applied: Applied) -> None:
        """Notes a step."""
        self._steps.append(applied)

    def forget_after(self, step: int) -> None:
        """Drops the steps after ``step``: the world goes on from there."""
        while self._steps and self._steps[-1].step > step:
            self._steps.pop()

    def take(self, now: float = 0.0) -> list[messages.Steps]:
        """Returns everything not sent yet, in order, and forgets it; ``now`` is on its clock."""
        batches: list[list[Applied]] = []
        for one in self._steps:
            if not batches or not _continues(batches[-1][-1], one):
                batches.append([])
            batches[-1].append(one)
        self._steps.clear()
        return [self._message(batch, now) for batch in batches]

    def _message(self, batch: list[Applied], now: float) -> messages.Steps:
        first, last = batch[0], batch[-1]
        waits = [one.waited for one in batch if one.seconds and one.waited is not None]
        accounts: Counter[str] = Counter()
        for one in batch:
            accounts.update(one.accounts)
        return messages.Steps(
            generation=first.generation,
            first=first.step,
            metrics={name: [one.metrics[name] for one in batch] for name in first.metrics},
            total_steps=self._total,
            count=len(batch),
            seconds=round(sum(one.seconds for one in batch), 6),
            samples=sum(one.samples for one in batch if one.seconds),
            age=round(now - last.at, 6),
            data_wait=round(sum(waits), 6) if waits else None,
            accounts={name: told for name, one in accounts.items() if (told := round(one, 4))}
            or None,
        )


def _continues(before: Applied, one: Applied) -> bool:
    return (
        before.generation == one.generation
        and before.step + 1 == one.step
        and before.metrics.keys() == one.metrics.keys()
    )


class Progress:
    """Sends how far this worker is: several times a second, and whenever it is asked to.

    Args:
        generations: which world this worker is in.
        state: how many steps it has.
        saving: seconds that this worker would need for its share of a checkpoint.
        total_steps: of the whole run; None where nobody knows.
        clock: monotonic seconds, as ``generations`` has them.
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
        self._since = self._clock()  # in this world, or when its last step was completed
        self._first = True  # whether none of this world's steps is completed

    def enter(self) -> None:
        """This worker is in another world, which goes on from the state's step."""
        self._log.forget_after(self._state.step)
        self._since, self._first = self._generations.since, True
        self._sent_at = -math.inf  # curves go back with its first step, before what it evaluates

    def completed(
        self,
        metrics: dict[str, float],
        samples: int = 0,
        waited: float | None = None,
        times: Times | None = None,
    ) -> None:
        """The state's newest step was applied.

        Args:
            metrics: of it; may be empty.
            samples: that all ranks took in it.
            waited: seconds that this rank has waited for its batches; None where nobody knows.
            times: what the ranks have told of their time; None where nobody knows.
        """
        generations, step, now = self._generations, self._state.step, self._clock()
        took, self._since = now - self._since, now
        if self._first and generations.rank == 0:
            seconds = round(took, 4)
            generations.emit(
                "first_step", generation=generations.number, step=step, seconds=seconds
            )
        seconds = 0.0 if self._first else took
        self._first = False
        accounts = {} if times is None else times.take()
        told = generations.number, step, metrics, seconds, samples, now, waited, accounts
        self._log.add(Applied(*told))
        if times is not None:
            if (ranks := times.ranks()) is not None and generations.rank == 0:
                self._tell(ranks)
            times.own.lap()
        if generations.careful or now - self._sent_at >= REPORT_EVERY:
            self.send()

    def _tell(self, ranks: Ranks) -> None:
        """Sends what the ranks have spent over the newest steps; rank 0 does."""
        generations = self._generations
        fields: dict[str, Any] = ranks.to_fields()
        generations.channel.send(
            messages.Ranks(generation=generations.number, step=self._state.step, **fields)
        )

    def send(self) -> None:
        """Sends the step, and from rank 0 the metrics of all steps that were not sent yet."""
        generations, send = self._generations, self._generations.channel.send
        if generations.rank == 0:
            for batch in self._log.take(self._clock()):
                send(batch)
        saving = round(self._saving(), 3)
        send(messages.Progress(generations.number, self._state.step, saving))
        self._sent_at = self._clock()
