"""A run's worlds one after another on one axis of time, and what their VMs did there. Pure.

The axis begins as the clocks do that wrote the first events. From one world to the next it goes on
by durations that somebody has measured: what steps took, by the clock of rank 0's VM, and how long
the workers had been without a step when the next world began, by their own. Only where no worker
lived through a pause, it is a difference between clocks of two machines.

Events of a leader are placed by the world that it formed last before them: so a leader whose clock
is wrong by an hour moves nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from launcher.status.accounts import Account
from launcher.status.generation import Generation, Stretch
from launcher.status.lives import Moment

NEVER = 2**63  # a step that no run reaches
ALL = "all"  # of what ranks tell of their time: the sum, computing included
WITHIN: tuple[Account, ...] = (
    "communication",
    "data_wait",
    "waiting",
    "checkpoint",
    "evaluation",
)
Shares = Mapping[Account, float]  # of a time; they add up to 1
REPEATED: Shares = {"repeated": 1.0}
TRAINING: Shares = {"training": 1.0}


class Phase(NamedTuple):
    """What VMs do for a time.

    Attributes:
        since, until: on the axis.
        members: how many of them: those of the world; None for all that are there and were ready.
        shares: what they do.
    """

    since: float
    until: float
    members: int | None
    shares: Shares


@dataclass(frozen=True)
class World:
    """One formation of the world, on the axis.

    Attributes:
        generation: which one.
        formed: when it was.
        begins: when its workers had begun.
        stepped: when its first step was completed; with ``begins`` where nobody knows.
        ends: when its last step was completed; with ``begins`` if it completed none.
        phases: its steps.
    """

    generation: Generation
    formed: float
    begins: float
    stepped: float
    ends: float
    phases: tuple[Phase, ...]

    @property
    def preparing(self) -> Account:
        """What a pause before it is: of one in which nobody has trained before, a start."""
        return "starting" if self.generation.idle is None else "re_forming"


class Axis:
    """All worlds of a run, in order.

    Args:
        generations: in order.
        left_out: steps that changed nothing.
        kept: the last step that was of use, of a run that is over; None where all were.
    """

    def __init__(
        self,
        generations: Iterable[Generation],
        left_out: Collection[int] = (),
        kept: int | None = None,
    ) -> None:
        known = [one for one in generations if one.at is not None or one.start is not None]
        limits = limits_of(known, NEVER if kept is None else kept)
        self.worlds: list[World] = []
        self._shifts: dict[int, list[tuple[float, float]]] = defaultdict(list)  # by term
        self._usual = 0.0  # seconds of a step, in the newest world that has any
        self._stepped: float | None = None  # when the last step was completed
        for one, limit in zip(known, limits, strict=True):
            self._place(one, limit, left_out)

    def at(self, moment: Moment) -> float:
        """Where a moment is on the axis."""
        shifts = self._shifts.get(moment.term)
        if not shifts:
            return moment.time
        place = bisect_right(shifts, (moment.time, math.inf)) - 1
        return moment.time + shifts[max(0, place)][1]

    def world_at(self, time: float) -> World | None:
        """The newest world that had begun by a time on the axis."""
        place = bisect_right(self.worlds, time, key=lambda one: one.begins) - 1
        return self.worlds[place] if place >= 0 else None

    def _place(self, one: Generation, limit: int, left_out: Collection[int]) -> None:
        before = self.worlds[-1].ends if self.worlds else -math.inf
        took = one.first_took
        began = one.began_at
        if began is None:
            reached = one.first_at if one.first_at is not None else one.at
            began = (reached or 0.0) - (took or 0.0)
        if one.idle is not None and self._stepped is not None:
            begins = max(before, self._stepped + one.idle)
        else:
            begins = max(before, self.at(Moment(began, one.term)))
        formed_at = began if one.at is None else min(one.at, began)
        shift = begins - began
        self._shifts[one.term].append((formed_at, shift))
        self._shifts[one.term].sort()
        if took is None and one.first_at is not None:  # a script's, or of an older version
            took = max(0.0, one.first_at - began)
        phases = tuple(self._steps(one, begins, took, limit, left_out))
        ends = phases[-1].until if phases else begins
        if phases:
            self._stepped = ends
        formed = min(begins, max(before, formed_at + shift))
        self.worlds.append(World(one, formed, begins, begins + (took or 0.0), ends, phases))

    def _steps(
        self,
        one: Generation,
        begins: float,
        took: float | None,
        limit: int,
        left_out: Collection[int],
    ) -> Iterator[Phase]:
        """What the steps of a world took, the first one included."""
        stretches = list(one.distinct())
        steps = sum(it.last - it.first + 1 for it in stretches)
        if steps:
            self._usual = sum(it.seconds for it in stretches) / steps
        members, usual = len(one.members) or None, shares_of(stretches)
        now, first = begins, (one.start or 0) + 1
        if took is not None:
            # What it takes longer than others is no step: compiling, buffers, connections.
            ahead = 1 if one.said is None else max(1, one.said - first + 1)
            counted = min(took, self._usual * ahead)
            preparing: Account = "starting" if one.idle is None else "re_forming"
            now += took - counted
            yield Phase(begins, now, members, {preparing: 1.0})
            counts = first <= limit and first not in left_out
            yield Phase(now, now + counted, members, usual if counts else REPEATED)
            now += counted
        for stretch in stretches:
            last = min(limit, stretch.last)
            count = max(0, last - stretch.first + 1)
            count -= sum(stretch.first <= step <= last for step in left_out)
            counted = stretch.seconds * count / (stretch.last - stretch.first + 1)
            shares = shares_of([stretch]) if stretch.accounts else usual
            end = now + stretch.seconds
            yield Phase(now, now + counted, members, shares)
            if end > now + counted:
                yield Phase(now + counted, end, members, REPEATED)
            now = end


def limits_of(generations: list[Generation], least: int = NEVER) -> list[int]:
    """Of each generation, the last step that no later one has done again; at most ``least``."""
    limits = []
    for one in reversed(generations):
        limits.append(least)
        if one.start is not None:
            least = min(least, one.start)
    return limits[::-1]


def shares_of(stretches: Iterable[Stretch]) -> Shares:
    """What the ranks of a world did while it took steps, as far as they have told."""
    sums: defaultdict[str, float] = defaultdict(float)  # a Counter takes five times as long
    waited, seconds = 0.0, 0.0
    for one in stretches:
        for name, spent in (one.accounts or {}).items():
            sums[name] += spent
        if one.data_wait is not None:
            waited, seconds = waited + one.data_wait, seconds + one.seconds
    total = sums[ALL]
    if not total > 0:  # of older versions rank 0 alone has told, and what it waited for
        part = min(1.0, max(0.0, waited) / seconds) if seconds > 0 else 0.0
        return {"data_wait": part, "training": 1.0 - part}
    shares: dict[Account, float] = {what: max(0.0, sums[what] / total) for what in WITHIN}
    told = sum(shares.values())
    if told > 1.0:  # what came from a store adds up to anything
        shares = {what: part / told for what, part in shares.items()}
    shares["training"] = max(0.0, 1.0 - told)
    return shares
