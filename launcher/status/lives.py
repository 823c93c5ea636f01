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
from collections.abc import Callable, Iterator
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
SAME = 1.0  # seconds: processes that were started so close to each other are the same
_LEADERS = frozenset(
    ("member_joined", "member_ready", "drain", "loss", "generation_formed", "world_adopted")
)
_OTHERS = frozenset(
    ("attempt_started", "attempt_ended", "attempt_left", "wanted", "leader_changed")
)


@dataclass
class Life:
    """One incarnation of a replica.

    Attributes:
        replica: its name.
        began: when its agent did.
        attempt: whose VM it is.
        ready: when it was ready for the first time; None before.
        left: when it had gone as planned.
        over: when its attempt was, or another incarnation had taken its place.
        lost: when a leader missed it.
        drained: whether it has had notice.
        terms: of the leaders that it came to.
        rates: what it costs.
    """

    replica: str
    began: Moment
    attempt: int = 1
    ready: Moment | None = None
    left: Moment | None = None
    over: list[Moment] = field(default_factory=list)
    lost: Moment | None = None
    drained: bool = False
    terms: set[int] = field(default_factory=set)
    rates: Rates = UNKNOWN


class Lives:
    """The fold of a run's events. ``add`` each one once, in any order.

    Attributes:
        wanted: from when on how many VMs were, in order.
    """

    def __init__(self) -> None:
        self.wanted: list[tuple[Moment, int]] = []
        self._told: list[tuple[int, float, int, EventRecord]] = []  # by leaders: term, time, order
        self._lives: list[Life] | None = None
        self._term = 0  # the newest
        self._replicas = 0  # of an attempt, as the newest has them
        self._rates: dict[int, Rates] = {}  # by attempt
        self._started: list[tuple[float, int]] = []  # attempts: when
        self._over: dict[int, float] = {}  # by attempt: when
        self._led: dict[int, int] = {}  # by term: the leader's attempt

    def add(self, event: EventRecord) -> None:
        """Takes one event into account."""
        self._term = max(self._term, event.term or 0)
        if event.event not in _LEADERS and event.event not in _OTHERS:  # as most: steps
            return
        match event:
            case EventRecord(event="attempt_started", attempt=int(attempt)):
                self._begun(event, attempt)
            case EventRecord(event="attempt_ended" | "attempt_left", attempt=int(attempt)):
                self._over.setdefault(attempt, event.time)
                self._tell(event)
            case EventRecord(event="wanted", jobs=int(jobs)) if self._replicas:
                self._want(event.time, jobs * self._replicas)
            case EventRecord(event="leader_changed", term=int(term), attempt=int(attempt)):
                self._led[term] = attempt
            case EventRecord(event=name) if name in _LEADERS:
                self._tell(event)
            case _:
                return
        self._lives = None

    def _tell(self, event: EventRecord) -> None:
        term, count = self.moment(event).term, len(self._told)
        # Before there were terms nobody knew whose clock it is: as they came.
        self._told.append((term, event.time if term else 0.0, count, event))

    def moment(self, event: EventRecord) -> Moment:
        """When a leader's event was; one that names no term is of the newest."""
        return Moment(event.time, event.term or self._term)

    def __iter__(self) -> Iterator[Life]:
        if self._lives is None:
            told = _Told(self._attempt_at)
            for term, _, _, event in sorted(self._told, key=lambda one: one[:3]):
                told.take(event, Moment(event.time, term))
            self._lives = told.lives
            for life in self._lives:
                self._complete(life)
        return iter(self._lives)

    def _begun(self, event: EventRecord, attempt: int) -> None:
        replicas = event.replicas or 0
        self._replicas = replicas or self._replicas
        self._started.append((event.time, attempt))
        self._want(event.time, self._replicas if event.wanted is None else event.wanted)
        if replicas:
            self._rates[attempt] = Rates(
                _each(event.usd_per_hour, replicas), _each(event.on_demand, replicas)
            )

    def _want(self, at: float, count: int) -> None:
        self.wanted.append((Moment(at), max(0, count)))
        self.wanted.sort()

    def _attempt_at(self, at: Moment) -> int:
        """Which attempt a VM is of that came at a moment, where its name does not say."""
        if at.term in self._led:
            return self._led[at.term]
        before = [attempt for began, attempt in self._started if began <= at.time]
        return max(before, default=1)

    def _complete(self, life: Life) -> None:
        life.rates = self._rates.get(life.attempt, UNKNOWN)
        over = self._over.get(life.attempt)
        if over is not None and (life.terms or over > life.began.time):
            life.over.append(Moment(over))


class _Told:
    """What leaders tell, taken in order of their terms, and of each one's own clock."""

    def __init__(self, attempt_at: Callable[[Moment], int]) -> None:
        self.lives: list[Life] = []
        self._attempt_at = attempt_at
        self._newest: dict[str, Life] = {}  # by replica
        self._known: dict[tuple[str, str], Life] = {}  # by replica and incarnation
        self._inside: set[str] = set()  # the replicas of the newest world

    def take(self, event: EventRecord, at: Moment) -> None:
        """Takes one event into account."""
        match event:
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
            case EventRecord(event="generation_formed" | "world_adopted", members=list(members)):
                self._formed(members, at)
            case EventRecord(event="attempt_ended" | "attempt_left", attempt=int(attempt)):
                for member, life in [*self._newest.items()]:
                    if life.attempt == attempt and not life.terms:  # of an older version
                        del self._newest[member]

    def _joined(self, event: EventRecord, member: str, at: Moment) -> None:
        key = member, event.incarnation or ""
        life = self._known.get(key)
        if life is None:
            began = Moment(at.time - max(0.0, event.age or 0.0), at.term)
            before = self._newest.get(member)
            known = before is not None and before.began.term == at.term
            if before is not None and known and began.time < before.began.time + SAME:
                began = at  # its agent begins anew in the process that it had
            life = self._known[key] = self._begin(member, began)
        elif life.lost is not None and life.lost.term < at.term:
            life.lost = None  # it had only gone over to the next leader
        life.terms.add(at.term)

    def _begin(self, member: str, began: Moment) -> Life:
        before = self._newest.get(member)
        if before is not None:
            before.over.append(began)
            if before.terms and before.left is None and before.lost is None:
                before.lost = began  # nobody has told when: its last sign of life counts
        attempt = job_of(member) or self._attempt_at(began)
        life = self._newest[member] = Life(member, began, attempt)
        self.lives.append(life)
        return life

    def _formed(self, members: list[str], at: Moment) -> None:
        inside = set(members)
        for gone in self._inside - inside:
            if (life := self._newest.get(gone)) is None:
                continue
            silent = at.term not in life.terms and bool(life.terms)
            if life.left is None and life.lost is None and (life.drained or not life.terms):
                life.left = at
            elif life.left is None and life.lost is None and silent:
                life.lost = at  # nobody was left to tell
        for member in members:
            life = self._newest.get(member)
            ended = life is not None and (life.left is not None or life.lost is not None)
            if life is None or (ended and not life.terms):  # of an older version, which tells less
                life = self._begin(member, at)
            life.ready = life.ready or at
        self._inside = inside

    def _life(self, event: EventRecord, member: str) -> Life | None:
        known = self._known.get((member, event.incarnation or ""))
        return self._newest.get(member) if known is None else known


def _each(usd_per_hour: float | None, replicas: int) -> float | None:
    known = usd_per_hour is not None and math.isfinite(usd_per_hour)
    return usd_per_hour / replicas / 3600 if known and usd_per_hour is not None else None
