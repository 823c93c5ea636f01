"""What the ranks of a world spend their time on, step by step.

Each rank measures itself, by its own clock, and tells its seconds together with its gradients (see
trainer.engine.extras): so every rank knows those of all, and nothing is sent for it. No clocks are
compared, only durations. A sum ends on all ranks at the same time, as far as anybody can tell:

    the sum of step 4 ─── own time of rank 0 ───► its gradients are complete ── waits ──► the sum
    the sum of step 4 ─── own time of rank 1 ───────────────────► they are ──── waits ──► of step 5

Whoever comes last waits for nobody: for how long it waits is what communication takes that is not
hidden behind computing. What others wait longer than that, they wait for the slowest: by how much
their own time is shorter than its. So a step is told of when it is over, the last of a world too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import add
from typing import Literal, NamedTuple

import numpy as np

Spending = Literal["data_wait", "evaluation", "checkpoint"]
ALL = "all"  # of accounts: seconds of all ranks together
WINDOW = 10.0  # seconds of steps that are told of at once, rank by rank
TOLD = 64  # ranks of a world up to which each is told of; in a larger one the slowest are
SLOWEST = 16


class Timing(NamedTuple):
    """What one rank tells of its time in a step; all in seconds.

    Attributes:
        own: from the sum of the step before until its gradients were complete. The next three are
            parts of it.
        data_wait: for which it waited for its batches.
        evaluation: of evaluations.
        checkpoint: for which it was held up by a checkpoint.
        samples: how many it has computed; a count. Who computes more takes longer.
    """

    own: float = 0.0
    data_wait: float = 0.0
    evaluation: float = 0.0
    checkpoint: float = 0.0
    samples: float = 0.0


NUMBERS = len(Timing._fields)


class Ranks(NamedTuple):
    """What each rank has spent over some steps; all in seconds.

    Attributes:
        steps: how many they were.
        seconds: that they took.
        computed: of each rank: its own time, without what it waited for data, evaluated and saved.
        data_wait: of each rank.
        waited: of each rank: for the slowest.
        samples: of each rank: how many it has computed.
    """

    steps: int
    seconds: float
    computed: Sequence[float]
    data_wait: Sequence[float]
    waited: Sequence[float]
    samples: Sequence[float] = ()

    def to_fields(self) -> dict[str, object]:
        """What the event ``ranks`` says of it: of a large world, the slowest ranks, and medians."""
        computed, waits = np.array(self.computed), np.array(self.data_wait)
        ranks = list(range(len(computed)))
        if len(ranks) > TOLD:
            ranks = sorted(np.argsort(computed + waits)[-SLOWEST:].tolist())

        def told(values: Sequence[float]) -> list[float]:
            return [round(values[rank], 4) for rank in ranks]

        return {
            "count": self.steps,
            "seconds": round(self.seconds, 4),
            "ranks": ranks,
            "computed": told(self.computed),
            "data_wait": told(self.data_wait),
            "waited": told(self.waited),
            "samples": [int(self.samples[rank]) for rank in ranks if self.samples],
            "median": {
                "computed": round(float(np.median(computed)), 4),
                "data_wait": round(float(np.median(waits)), 4),
            },
        }


class Stopwatch:
    """This rank's own time in one world after another.

    Args:
        clock: seconds.

    Attributes:
        own: seconds that it took until its gradients were complete, in the newest step.
        waited: from then on to the sum.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since = self._lap = clock()
        self.own = self.waited = 0.0
        self._spent: dict[str, float] = {}

    def enter(self) -> None:
        """This rank has joined a world: its time there begins."""
        self._since = self._lap = self._clock()
        self._spent.clear()

    def lap(self) -> None:
        """What may be told of by ``took`` begins now."""
        self._lap = self._clock()

    def took(self, what: Spending) -> float:
        """The time since the last lap went into this; another lap begins. Returns its seconds."""
        now = self._clock()
        seconds, self._lap = now - self._lap, now
        self._spent[what] = self._spent.get(what, 0.0) + seconds
        return seconds

    @contextmanager
    def timing(self, what: Spending) -> Iterator[None]:
        """What happens in it goes into this."""
        self.lap()
        yield
        self.took(what)

    def complete(self, data_wait: float = 0.0, samples: int = 0) -> Timing:
        """This rank's gradients are complete. Returns what it tells of its time.

        Args:
            data_wait: seconds that it has waited for batches of the step.
            samples: how many it has computed.
        """
        now = self._clock()
        spent, self.own = self._spent, now - self._since
        parts = spent.get("evaluation", 0.0), spent.get("checkpoint", 0.0)
        told = Timing(self.own, data_wait, *parts, float(samples))
        self._since = now
        spent.clear()
        return told

    def summed(self) -> None:
        """The sum is there."""
        now = self._clock()
        self.waited, self._since = now - self._since, now


class Times:
    """What all ranks of a world have told of their time.

    Attributes:
        own: this rank's stopwatch.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.own = Stopwatch(clock)
        self._first = True  # whether none of this world's steps was told of
        self._accounts: dict[str, float] = {}
        self._told: list[float] = []  # the sums of what was told, while there is a window
        self._slowest: list[float] = []  # and for how long each rank waited for the slowest
        self._steps = 0
        self._seconds = 0.0

    def enter(self) -> None:
        """This rank has joined a world, whose others may be others than those before."""
        self.own.enter()
        self._first = True
        self._accounts = {}
        self._begin_window()

    def told(self, numbers: Sequence[float]) -> None:
        """All ranks have told of their time: rank by rank the numbers of a Timing.

        Of a world's first step, which is no measure of the others, nothing is kept.
        """
        first, self._first = self._first, False
        if first:
            return
        # Of each step, and mostly of few ranks: an array would take longer to make than to add.
        own, data_wait, evaluation, checkpoint = (numbers[at::NUMBERS] for at in range(4))
        last = max(own)
        slowest = [last - one for one in own]
        communication = max(0.0, self.own.waited - max(0.0, last - self.own.own))
        for name, seconds in (
            (ALL, sum(own) + sum(slowest) + communication * len(own)),
            ("data_wait", sum(data_wait)),
            ("evaluation", sum(evaluation)),
            ("checkpoint", sum(checkpoint)),
            ("communication", communication * len(own)),
            ("waiting", sum(slowest)),
        ):
            self._accounts[name] = self._accounts.get(name, 0.0) + seconds
        self._told = [*map(add, self._told, numbers)] if self._steps else [*numbers]
        self._slowest = [*map(add, self._slowest, slowest)] if self._steps else slowest
        self._steps += 1
        self._seconds += last + communication

    def take(self) -> Mapping[str, float]:
        """Returns seconds of all ranks together, by account, and forgets them.

        ``all`` is the sum of what is there and of what is not: computing.
        """
        taken, self._accounts = self._accounts, {}
        return taken

    def ranks(self) -> Ranks | None:
        """Every WINDOW seconds, what each rank has spent since the last time; else None."""
        if not self._steps or self._seconds < WINDOW:
            return None
        own, data_wait, evaluation, checkpoint, samples = (
            self._told[at::NUMBERS] for at in range(NUMBERS)
        )
        parts = zip(own, data_wait, evaluation, checkpoint, strict=True)
        computed = [whole - data - other - saved for whole, data, other, saved in parts]
        found = Ranks(self._steps, self._seconds, computed, data_wait, self._slowest, samples)
        self._begin_window()
        return found

    def _begin_window(self) -> None:
        self._told, self._slowest = [], []
        self._steps, self._seconds = 0, 0.0
