"""Which VMs a run had when, and how many it wanted: folded from its events. Pure.

A VM is there from its agent's start on: how long that had lived when it came to a leader, it says
itself. It is gone with the last step of its world if it was lost (that was its last sign of life),
when its world was left if it had notice, when its replica came back as another incarnation, and
when its attempt was over.

Times are those of events, by the clock of whoever wrote them: a leader's, which ``term`` names, or
for attempts the launcher's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from launcher.records import EventRecord
from launcher.status.losses import job_of


class Moment(NamedTuple):
    """When something was, in Unix seconds, by the clock of the leader of a term; 0: another's."""

    time: float
    term: int = 0


class Rates(NamedTuple):
    """What one VM costs in a second, in USD; None where that is not known."""

    usd: float | None = None
    on_demand: float | None = None


UNKNOWN = Rates()


@dataclass
class Life:
    """One incarnation of a replica.

    Attributes:
        replica: its name.
        began: when its agent did.
        ready: when it was ready for the first time; None before.
        left: when it had gone as planned, or its attempt was over.
        lost: when a leader missed it.
        drained: whether it has had notice.
        terms: of the leaders that it came to.
        rates: what it costs.
    """

    replica: str
    began: Moment
    ready: Moment | None = None
    left: Moment | None = None
    lost: Moment | None = None
    drained: bool = False
    terms: set[int] = field(default_factory=set)
    rates: Rates = UNKNOWN


class Lives:
    """The fold of a run's events. ``add`` each one once, in their order."""

    def __init__(self) -> None:
        self.all: list[Life] = []
        self.wanted: list[tuple[Moment, int]] = []  # from when on how many VMs were
        self._newest: dict[str, Life] = {}  # by replica
        self._known: dict[tuple[str, str], Life] = {}  # by replica and incarnation
        self._replicas = 0  # of an attempt, as the newest has them
        self._rates: dict[int, Rates] = {}  # by attempt
        self._attempt = 0  # the newest
        self._term = 0
        self._inside: set[str] = set()  # the replicas of the newest world

    def add(self, event: EventRecord) -> None:
        """Takes one event into account."""
        if event.term is not None:
            self._term = max(self._term, event.term)
        at = self.moment(event)
        match event:
            case EventRecord(event="attempt_started", attempt=int(attempt)):
                self._started(event, attempt)
            case EventRecord(event="attempt_ended" | "attempt_left", attempt=int(attempt)):
                self._over(attempt, Moment(event.time))
            case EventRecord(event="wanted", jobs=int(jobs)) if self._replicas:
                self.wanted.append((Moment(event.time), jobs * self._replicas))
            case EventRecord(event="member_joined", member=str(member)):
                self._joined(event, member, at)
            case EventRecord(event="member_ready", member=str(member)):
                life = self._newest.get(member)
                if life is not None and life.ready is None:
                    life.ready = at
            case EventRecord(event="drain", member=str(member)):
                if (life := self._life(event, member)) is not None:
                    life.drained = True
            case EventRecord(event="loss", member=str(member)) if event.gone or not self._known:
                if (life := self._life(event, member)) is not None and life.lost is None:
                    life.lost = at
            case EventRecord(event="generation_formed", members=list(members)):
                self._formed(members, at)

    def moment(self, event: EventRecord) -> Moment:
        """When a leader's event was; one that names no term is of the newest."""
        return Moment(event.time, event.term or self._term)

    def _started(self, event: EventRecord, attempt: int) -> None:
        replicas = event.replicas or 0
        self._attempt = max(self._attempt, attempt)
        self._replicas = replicas or self._replicas
        if event.wanted is not None:
            self.wanted.append((Moment(event.time), event.wanted))
        elif not self.wanted:
            self.wanted.append((Moment(event.time), 0))
        if replicas:
            self._rates[attempt] = Rates(
                _each(event.usd_per_hour, replicas), _each(event.on_demand, replicas)
            )

    def _over(self, attempt: int, at: Moment) -> None:
        for life in self._newest.values():
            job = job_of(life.replica)
            if life.left is None and (job is None or job == attempt):
                life.left = at

    def _joined(self, event: EventRecord, member: str, at: Moment) -> None:
        key = member, event.incarnation or ""
        life = self._known.get(key)
        if life is None:
            began = Moment(at.time - max(0.0, event.age or 0.0), at.term)
            life = self._known[key] = self._begin(member, began)
        life.terms.add(at.term)

    def _begin(self, member: str, began: Moment) -> Life:
        before = self._newest.get(member)
        if before is not None and before.left is None and before.lost is None:
            before.left = began
        job = job_of(member)
        rates = self._rates.get(self._attempt if job is None else job, UNKNOWN)
        life = self._newest[member] = Life(member, began, rates=rates)
        self.all.append(life)
        return life

    def _formed(self, members: list[str], at: Moment) -> None:
        inside = set(members)
        for gone in self._inside - inside:
            life = self._newest[gone]
            silent = at.term not in life.terms and bool(life.terms)
            if life.left is None and life.lost is None and (life.drained or not life.terms):
                life.left = at
            elif life.left is None and life.lost is None and silent:
                life.lost = at  # nobody was left to tell
        for member in members:
            life = self._newest.get(member)
            gone = life is not None and (life.left is not None or life.lost is not None)
            if life is None or (gone and not life.terms):  # of an older version, which tells less
                life = self._begin(member, at)
            life.ready = life.ready or at
        self._inside = inside

    def _life(self, event: EventRecord, member: str) -> Life | None:
        known = self._known.get((member, event.incarnation or ""))
        return self._newest.get(member) if known is None else known

    def __iter__(self) -> Iterator[Life]:
        return iter(self.all)


def _each(usd_per_hour: float | None, replicas: int) -> float | None:
    known = usd_per_hour is not None and math.isfinite(usd_per_hour)
    return usd_per_hour / replicas / 3600 if known and usd_per_hour is not None else None
