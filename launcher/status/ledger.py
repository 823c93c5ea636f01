"""The ledger of a run, computed from its events: where the time of its VMs went.

What the accounts are, and goodput, says launcher.status.accounts. Here they are added up: at every
moment so many VMs were wanted (launcher.status.lives), so many were there, some of these were not
ready yet, and the others did what the world did (launcher.status.worlds).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from launcher.status.accounts import ACCOUNTS, Account, Ledger
from launcher.status.history import History
from launcher.status.lives import UNKNOWN, Life, Moment, Rates
from launcher.status.worlds import Axis, Phase

LONGEST = 1e12  # Unix seconds
QUIET = 30.0  # seconds without a report after which steps are not taken to go on


def ledger_of(history: History, now: float | None) -> Ledger | None:
    """Returns the ledger of a run; None before it has asked for a VM, and where nobody knows steps.

    Args:
        history: of its events.
        now: Unix seconds, for a run that goes on; None for one that is over.
    """
    timeline = Timeline.of(history, now)
    return None if timeline is None else timeline.between(timeline.start, timeline.end)


def axis_of(history: History) -> Axis:
    """The worlds of a run on one axis of time."""
    return Axis(history.in_order, history.left_out, history.kept)


@dataclass(frozen=True)
class Timeline:
    """What became of a run's VMs, from when on.

    Attributes:
        start, end: from the first moment to the last, in Unix seconds.
    """

    start: float
    end: float
    _changes: list[_Change]
    _phases: list[Phase]

    @classmethod
    def of(cls, history: History, now: float | None, axis: Axis | None = None) -> Timeline | None:
        """That of a run; see ``ledger_of``. While steps come, it ends with the last that is known.

        None where there is no ledger. ``axis`` is that of its worlds, if it was made already.
        """
        axis, lives = axis or axis_of(history), history.lives
        begins = [at.time for at, count in lives.wanted if count]
        begins = begins or [axis.at(life.began) for life in lives]
        begins = begins or [at.time for at, _ in lives.wanted]
        if not begins or not history.steps_known:
            return None
        start, end = min(begins), _end(history, axis, now)
        end = max(start, end)
        if not -LONGEST < start <= end < LONGEST:  # that is no date
            return None
        lived = [_Lived.of(life, axis, end) for life in lives]
        wanted = lives.wanted
        if not any(count for _, count in wanted):  # an older version's launcher does not say
            wanted = [(Moment(start), _most(lived))]
        runs = now is not None and history.ended is None
        phases = list(_phases(history, axis, start, end, runs))
        return cls(start, end, _changes(wanted, lived), phases)

    def between(self, since: float, until: float) -> Ledger:
        """The ledger of a part of its time."""
        since = min(max(since, self.start), self.end)
        until = max(since, min(until, self.end))
        # They follow each other: a part of a long run does not go through all of them.
        begin = bisect_left(self._phases, since, key=lambda phase: phase.until)
        end = bisect_right(self._phases, until, key=lambda phase: phase.since)
        return _Sums(since, until).of(self._changes, self._phases[begin:end])

    def parts(self, count: int) -> list[Ledger]:
        """The ledgers of so many parts of its time, each as long as the others."""
        step = (self.end - self.start) / count
        edges = [self.start + step * number for number in range(count)] + [self.end]
        return [self.between(since, until) for since, until in pairwise(edges)]


@dataclass(frozen=True)
class _Lived:
    """When a VM was there, and ready, on the axis."""

    began: float
    ready: float
    gone: float
    rates: Rates

    @classmethod
    def of(cls, life: Life, axis: Axis, end: float) -> _Lived:
        began = axis.at(life.began)
        ends = life.over if life.left is None else [life.left, *life.over]
        gone = min([end, *map(axis.at, ends)])
        if life.lost is not None and (lost := axis.at(life.lost)) <= end:
            world = axis.world_at(lost)
            # Its last sign of life was the last step of its world.
            inside = world is not None and life.replica in world.generation.members
            gone = min(gone, max(began, world.ends) if inside and world is not None else lost)
        gone = max(began, gone)
        ready = gone if life.ready is None else min(gone, max(began, axis.at(life.ready)))
        return cls(began, ready, gone, life.rates)


@dataclass(frozen=True)
class _Change:
    """What changes at a time: how many VMs are wanted, there, and not ready; what they cost."""

    at: float
    wanted: int | None = None
    there: int = 0
    starting: int = 0
    rates: Rates = UNKNOWN


def _changes(wanted: Iterable[tuple[Moment, int]], lived: Iterable[_Lived]) -> list[_Change]:
    found = [_Change(at.time, wanted=count) for at, count in wanted]
    for one in lived:
        found.append(_Change(one.began, there=1, starting=1, rates=one.rates))
        found.append(_Change(one.ready, starting=-1))
        found.append(_Change(one.gone, there=-1, rates=one.rates))
    return sorted(found, key=lambda it: it.at)


def _most(lived: Iterable[_Lived]) -> int:
    """How many VMs there were at most at a time."""
    ends = sorted(pair for one in lived for pair in ((one.began, 1), (one.gone, -1)))
    return max(accumulate(change for _, change in ends), default=0)


def _end(history: History, axis: Axis, now: float | None) -> float:
    """Where the ledger ends."""
    last = axis.worlds[-1].ends if axis.worlds else -math.inf
    if (ended := history.ended) is not None:
        return max(last, axis.at(ended))
    if now is None:
        return max(last, axis.at(history.newest))
    return last if _goes_on(history, axis, now) else max(last, now)


def _goes_on(history: History, axis: Axis, now: float) -> bool:
    """Whether steps come: those since the last report are not known yet."""
    if not axis.worlds or history.waiting or not axis.worlds[-1].phases:
        return False
    newest = axis.worlds[-1]
    return not newest.generation.left and now - newest.ends < QUIET


def _phases(history: History, axis: Axis, start: float, end: float, runs: bool) -> Iterator[Phase]:
    """What those VMs do that are there and ready, from the first moment to the last."""
    now, worlds = start, axis.worlds
    waits = sorted(axis.at(one) for one in history.waits)
    for world in worlds:
        yield from _pause(world.preparing, now, world.begins, waits, world.formed)
        yield from world.phases
        now = world.ends
    if not worlds:
        yield from _pause("starting", now, end, waits, end)
    elif runs:
        yield from _pause("re_forming", now, end, waits, end)
    else:
        evaluated = min(end, now + history.evaluated_last)
        yield Phase(now, evaluated, None, {"evaluation": 1.0})
        yield Phase(evaluated, end, None, {"stopped": 1.0})


def _pause(
    what: Account, since: float, until: float, waits: list[float], formed: float
) -> Iterator[Phase]:
    """A pause, and of it the time in which there were too few machines."""
    few = next((at for at in waits if since <= at < formed), None)
    if few is not None:
        yield Phase(since, few, None, {what: 1.0})
        yield Phase(few, formed, None, {"stopped": 1.0})
        since = formed
    yield Phase(since, until, None, {what: 1.0})


@dataclass
class _Sums:
    """Adds up what VMs did between two times."""

    since: float
    until: float
    seconds: dict[Account, float] = field(default_factory=lambda: dict.fromkeys(ACCOUNTS, 0.0))
    usd: dict[Account, float] = field(default_factory=lambda: dict.fromkeys(ACCOUNTS, 0.0))
    on_demand: float = 0.0
    wanted: int = 0
    there: int = 0
    starting: int = 0
    rate: float = 0.0  # USD in a second, of all that are there
    full: float = 0.0  # the same on demand
    priced: bool = True  # whether all prices are known
    compared: bool = True  # whether all on demand are

    def of(self, changes: list[_Change], phases: list[Phase]) -> Ledger:
        """Returns the ledger."""
        place, now = 0, -math.inf
        for phase in [*phases, Phase(self.until, self.until, None, {"stopped": 1.0})]:
            while place < len(changes) and changes[place].at <= phase.since:
                self._take(changes[place])
                place += 1
            now = phase.since
            while place < len(changes) and changes[place].at < phase.until:
                self._add(now, changes[place].at, phase)
                now = changes[place].at
                self._take(changes[place])
                place += 1
            self._add(now, phase.until, phase)
        return Ledger(
            self.since,
            self.until,
            self.seconds,
            self.usd if self.priced else None,
            self.on_demand if self.compared else None,
        )

    def _take(self, change: _Change) -> None:
        self.wanted = self.wanted if change.wanted is None else change.wanted
        self.there += change.there
        self.starting += change.starting
        if change.there:
            usd, full = change.rates
            self.priced &= usd is not None
            self.compared &= full is not None
            self.rate += change.there * (usd or 0.0)
            self.full += change.there * (full or 0.0)

    def _add(self, since: float, until: float, phase: Phase) -> None:
        """What happens in a time in which nothing changes."""
        seconds = min(until, self.until) - max(since, self.since)
        if not seconds > 0:
            return
        there = max(self.there, phase.members or 0)
        warming = min(self.starting, there - (phase.members or 0))
        rest = there - warming - (phase.members or 0)
        self._book("absent", seconds * max(0, self.wanted - there))
        each = self.rate / self.there if self.there else 0.0
        self._book("starting", seconds * warming, each)
        if phase.members is None:
            inside = rest
        else:
            inside = phase.members
            self._book("re_forming", seconds * rest, each)
        for name, share in phase.shares.items():
            self._book(name, seconds * inside * share, each)
        training = seconds * inside * phase.shares.get("training", 0.0)
        self.on_demand += training * (self.full / self.there if self.there else 0.0)

    def _book(self, account: Account, seconds: float, rate: float = 0.0) -> None:
        self.seconds[account] += seconds
        self.usd[account] += seconds * rate
