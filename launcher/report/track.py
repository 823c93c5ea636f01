"""What the pictures of a report are drawn from, folded from a run's events. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from launcher.records import EventRecord
from launcher.status.history import History
from launcher.status.ledger import axis_of
from launcher.status.lives import Moment
from launcher.status.sizes import sizes_of
from launcher.words import line_of
from trainer.rundir.events import Event
from trainer.rundir.numbers import all_finite, number_in

LONGEST = 1e12  # Unix seconds: what is beyond is no date
LARGEST = 1e100  # a value beyond this is counted, not drawn

# The rows of the timeline, and which events are in each; what is in none is in the last.
KINDS = {
    "lost or failed": (
        "loss",
        "fault",
        "agent_failed",
        "rank_failed",
        "task_failed",
        "unfit",
        "gpu_error",
        "unreachable",
        "worker_replaced",
    ),
    "notice": ("drain",),
    "world forms": ("generation_formed", "resumed"),
    "checkpoint": ("checkpoint_committed",),
    "machines": (
        "member_ready",
        "attempt_started",
        "attempt_ended",
        "attempt_left",
        "attempt_replaced",
        "attempt_due",
        "stockout",
        "wanted",
        "moved",
    ),
    "waiting, slow": ("waiting", "held_up", "standstill", "stalled", "straggler"),
    "anything else": (),
}
OTHER = "anything else"
_KIND_OF = {event: kind for kind, events in KINDS.items() for event in events}
_PASSED = frozenset({"ranks", "state_sent"})  # frequent, and worth no line


class Mark(NamedTuple):
    """An event that is worth a line: when, in which row of the timeline, in words, and of whom."""

    time: float
    kind: str
    text: str
    replica: str = ""


class Rate(NamedTuple):
    """How fast steps came until a time; samples a second are None where nobody has said them."""

    time: float
    steps: float
    samples: float | None


class Save(NamedTuple):
    """A checkpoint that was written: when, of which step, its bytes, and how long it took."""

    time: float
    step: int
    bytes: float | None
    seconds: float | None


class Told(NamedTuple):
    """What an event is worth: its kind, a line, whose it is, and what it says in numbers."""

    event: str
    text: str | None
    replica: str
    found: Save | None


class Track:
    """The fold of a run's events. All times are Unix seconds on the axis of its worlds.

    Args:
        events: the run's as far as they are known, in order; ``add`` takes in those to come.
        history: of the same events, if another folds them; it is ahead of what is added here.

    Attributes:
        history: of the same events.
        axis: of its worlds.
        marks: what is worth a line, in order of time.
        rates: how fast steps came.
        saves: the checkpoints that were written.
        slow: what was told of stragglers.
        curves: of each metric the values by step, those of the newest world that has told them.
        undrawn: how many values of a metric are no finite numbers, or beyond ``LARGEST``.
        sizes: how many workers trained when; there are none between two worlds.
    """

    def __init__(self, events: Iterable[Event] = (), history: History | None = None) -> None:
        self.history = History() if history is None else history
        self._folds = history is None
        self._term = 0  # the newest
        self.undrawn: dict[str, int] = {}
        self._told: list[tuple[Moment, Told]] = []
        self._rated: list[tuple[Moment, Rate]] = []
        self._values: dict[str, dict[int, float]] = {}  # NaN of what is not drawn
        self._of: dict[str, int] = {}  # the newest generation that each metric is of
        self._generation = 0
        self.add(events)

    def add(self, events: Iterable[Event]) -> None:
        """Takes in further events of the run, and places all of them anew."""
        for event in events:
            record = EventRecord.of(event)
            if self._folds:
                self.history.add(event, record)
            self._term = max(self._term, record.term or 0)
            self._add(event, record)
        self.axis = axis_of(self.history)
        self.marks: list[Mark] = []
        self.rates: list[Rate] = []
        self.saves: list[Save] = []
        self.slow: list[Mark] = []
        for told in self._told:
            self._place(*told)
        for moment, rate in self._rated:
            at = self.axis.at(moment)
            if -LONGEST < at < LONGEST:
                self.rates.append(Rate(at - (moment.time - rate.time), rate.steps, rate.samples))
        for found in (self.marks, self.rates, self.saves):
            found.sort(key=lambda one: one.time)
        self.curves: dict[str, dict[int, float]] = {}
        for name, values in sorted(self._values.items()):
            drawn = {step: value for step, value in sorted(values.items()) if value == value}
            self.undrawn[name] = len(values) - len(drawn)
            self.curves[name] = drawn
        self.sizes = list(sizes_of(self.history, self.axis))

    def _add(self, event: Event, record: EventRecord) -> None:
        """Takes one event into account; where it is on the axis is known when all are."""
        found: Save | None = None
        if record.event in _PASSED:
            return
        if record.event == "steps":
            if (rate := self._steps(record)) is not None:
                self._rated.append((Moment(record.time, record.term or self._term), rate))
            return
        if record.event == "evaluated":
            for name, value in (record.metrics or {}).items():
                self._series(name, record.step or 0, self._generation, [value])
        elif record.event in ("generation_formed", "world_adopted"):
            self._generation = max(self._generation, record.generation or 0)
        elif record.event == "checkpoint_committed" and record.step is not None:
            size = number_in(event.get("bytes"))
            found = Save(record.time, record.step, size, record.seconds)
        text = line_of(event)
        if found is not None or text is not None:
            moment = Moment(record.time, record.term or self._term)
            told = Told(record.event, text, record.member or "", found)
            self._told.append((moment, told))

    def _place(self, moment: Moment, told: Told) -> None:
        at, found = self.axis.at(moment), told.found
        if not -LONGEST < at < LONGEST:
            return
        if found is not None:
            self.saves.append(found._replace(time=at))
        if told.text is None:
            return
        mark = Mark(at, _KIND_OF.get(told.event, OTHER), told.text, told.replica)
        self.marks.append(mark)
        if told.event == "straggler":
            self.slow.append(mark)

    def _steps(self, record: EventRecord) -> Rate | None:
        first, (count, series) = record.first, record.told
        if first is None or count < 1:
            return None
        generation = self._generation if record.generation is None else record.generation
        for name, values in series.items():
            self._series(name, first + count - len(values), generation, values)
        if record.seconds is None or not record.seconds > 0:
            return None
        samples = record.samples / record.seconds if record.samples else None
        return Rate(record.time - (record.age or 0.0), count / record.seconds, samples)

    def _series(self, name: str, first: int, generation: int, told: list[Any]) -> None:
        """Takes in values of steps that follow each other."""
        if not all_finite(told) or max(map(abs, told)) > LARGEST:
            numbers = map(number_in, told)
            told = [it if it is None or abs(it) <= LARGEST else math.nan for it in numbers]
        new = {step: it for step, it in enumerate(told, first) if it is not None}
        values, newest = self._values.setdefault(name, {}), self._of.get(name, generation)
        self._of[name] = max(newest, generation)
        if generation < newest:  # it comes late: what was done again is not of it
            new = {step: it for step, it in new.items() if step not in values}
        values.update(new)


class Band(NamedTuple):
    """Some neighbouring points as one: the mean of where they are, and what they are."""

    at: float
    least: float
    mean: float
    most: float


def thinned(at: Sequence[float], values: Sequence[float], most: int) -> list[Band]:
    """Returns at most so many bands of points that are in order; each has as many of them."""
    each = max(1, math.ceil(len(values) / most))
    found = []
    for begin in range(0, len(values), each):
        places, some = at[begin : begin + each], values[begin : begin + each]
        least, most_of = min(some), max(some)
        mean = min(max(sum(some) / len(some), least), most_of)  # of equal ones it is rounded
        found.append(Band(sum(places) / len(places), least, mean, most_of))
    return found


def spaced(times: Iterable[float], start: float, end: float, most: int) -> list[float]:
    """Returns at most so many of the times: of those that a picture cannot tell apart, one."""
    width = max(end - start, 1e-9) / most
    return list({int((time - start) / width): time for time in times}.values())
