"""Whole fleets by the policy alone: several attempts at a time, and no API."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from hypothesis import strategies as st

from launcher.job.job import Job
from launcher.supervision.attempt import Attempt
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.fleet import Fleet, alive, outdated
from launcher.supervision.policy import (
    Action,
    Cancel,
    End,
    GoBack,
    Leave,
    Renew,
    Retire,
    Situation,
    Stop,
    Submit,
    Terms,
    Wait,
    decide,
)
from launcher.supervision.replacement import Inside
from tests.launcher.supervision.policy_run import STOCKOUT, job
from trainer.rundir.attempts import REPLACED

HOUR = 3600.0
POLL = 600.0
MEMBERS = 4  # of each attempt
WARM = 60.0  # seconds from an attempt's machines to its workers being in the world
ON_DEMAND = tuple(choices_of(job(regions=["us-central1"], scheduling="standard"), "local"))


@dataclass(frozen=True)
class Life:
    """What becomes of an attempt.

    Attributes:
        machines: seconds until it has its machines; None if it gets none.
        lives: seconds from its submission to its end.
        how: fields of its record at its end.
        trained: steps that it has taken part in.
        apart: whether it and the others do not reach each other.
    """

    machines: float | None = 0.0
    lives: float = math.inf
    how: tuple[tuple[str, Any], ...] = (("state", "FAILED"), ("reason", "preempted"))
    trained: int = 100
    apart: bool = False


def stays() -> Life:
    return Life()


def preempted(after: float) -> Life:
    return Life(lives=after)


def dry(after: float = 60.0) -> Life:
    return Life(None, after, (("state", "FAILED"), ("reason", STOCKOUT), ("code", 8)), 0)


def fails(reason: str, after: float = 60.0) -> Life:
    return Life(0.0, after, (("state", "FAILED"), ("reason", reason)), 0)


def apart() -> Life:
    return Life(trained=0, apart=True)


def cancelled(after: float) -> Life:
    return Life(0.0, after, (("state", "CANCELLED"),))


class FleetRun:
    """A run of several attempts at a time, played until ``until`` or its end.

    Args:
        job: what is run.
        fleet: how many are wanted.
        life: returns what becomes of an attempt from its number, its choice and the time.
        renews: whether attempts are renewed before their timeout, and for cheaper ones.
        prices: what a choice costs in USD per hour, by its strategy.
    """

    def __init__(
        self,
        job: Job,
        fleet: Fleet,
        life: Callable[[int, Choice, float], Life],
        renews: bool = False,
        prices: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.terms = Terms(
            "run-1",
            tuple(
                replace(it, usd_per_hour=prices.get(it.job.scheduling.strategy))
                for it in choices_of(job, "local")
            ),
            0.0,
            job.resubmit,
            job.limits,
            fleet,
            renews=renews,
            stop_grace=600.0,
        )
        self.attempts: dict[int, Attempt] = {}
        self.sent: list[tuple[float, str]] = []  # when, and in which region
        self.now = 0.0
        self.most_alive = 0
        self.most_beside = 0  # of those that were wanted, beside what is to go
        self.stopped: str | None = None
        self.end: End | None = None
        self._life = life
        self._lives: dict[int, Life] = {}
        self._cancel_sent: set[int] = set()

    def ask(self, jobs: int | None = None, ways: Job | None = None) -> None:
        """Asks for so many jobs from now on, of the choices of another job."""
        terms, fleet = self.terms, self.terms.fleet
        choices = terms.choices if ways is None else tuple(choices_of(ways, "local"))
        wanted = fleet.jobs if jobs is None else jobs
        self.terms = replace(
            terms, choices=choices, fleet=replace(fleet, jobs=wanted, since=self.now)
        )

    @property
    def training(self) -> list[Attempt]:
        """Those whose workers are in the world."""
        there = (it for it in self.alive if it.started is not None and not it.left)
        return [
            it
            for it in there
            if self.now >= (it.started or 0.0) + WARM
            and it.attempt not in self._unreached()
            and it.attempt not in self.terms.fleet.leave
        ]

    def play(self, until: float) -> FleetRun:
        """Goes on until then, in seconds, or to the run's end."""
        while self.now < until and self.end is None:
            acted = [self._carry_out(action) for action in self.decide()]
            if True not in acted:
                waits = [one for one in acted if not isinstance(one, bool)]
                self.now = min([until, self.now + POLL, *waits, *self._changes()])
            self._age()
        return self

    def decide(self) -> list[Action]:
        situation = Situation(
            tuple(self.attempts.values()),
            None,
            frozenset(self._cancel_sent),
            stop=self.stopped,
            unreached=self._unreached(),
            world=Inside({it.attempt: MEMBERS for it in self.training}, True),
        )
        return decide(self.terms, situation, self.now)

    def _unreached(self) -> dict[int, tuple[str, float]]:
        """Those that are apart from some that train; alone, each of them would train itself."""
        up = [it for it in self.alive if it.started is not None]
        if all(self._lives[it.attempt].apart for it in up):
            return {}
        return {
            it.attempt: ("no way", self.now - (it.started or 0.0))
            for it in up
            if self._lives[it.attempt].apart
        }

    @property
    def alive(self) -> list[Attempt]:
        return alive([*self.attempts.values()])

    def _carry_out(self, action: Action) -> bool | float:
        match action:
            case Submit(number, choice):
                self._submit(number, choice)
            case Leave(number, reason, kind):
                self.attempts[number] = replace(self.attempts[number], left=reason, kind=kind)
            case Renew(numbers):
                fleet = self.terms.fleet
                since = 0.0 if fleet.since is None else fleet.since
                changed = replace(fleet, since=since, renew=fleet.renew | numbers)
                self.terms = replace(self.terms, fleet=changed)
            case GoBack(numbers):
                fleet = self.terms.fleet
                assert not numbers & fleet.dear, "once"
                since = 0.0 if fleet.since is None else fleet.since
                changed = replace(fleet, since=since, dear=fleet.dear | numbers)
                self.terms = replace(self.terms, fleet=changed)
            case Retire(numbers):
                assert not numbers & self.terms.fleet.leave, "once"
                fleet = self.terms.fleet
                self.terms = replace(self.terms, fleet=replace(fleet, leave=fleet.leave | numbers))
            case Cancel(number):
                self._cancel_sent.add(number)
                self._over(number, self.now, state="CANCELLED")
            case Stop(reason):
                self.stopped = reason
            case End():
                self.end = action
            case Wait(until):
                assert until > self.now
                return until
            case _:
                return False
        return True

    def _submit(self, number: int, choice: Choice) -> None:
        assert number == len(self.attempts) + 1, "each number once"
        self.sent.append((self.now, choice.region))
        self._lives[number] = self._life(number, choice, self.now)
        self.attempts[number] = Attempt(
            number,
            choice.region,
            "x",
            choice.name,
            job=f"job-{number}",
            state="PENDING",
            created=self.now,
            submitted=self.now,
            usd_per_hour=choice.usd_per_hour,
        )
        self.most_alive = max(self.most_alive, len(self.alive))
        live = self.alive
        old = outdated(self.terms.fleet, self.terms.choices, live)
        beside = [it for it in live if it.attempt not in old and it.kind != REPLACED]
        self.most_beside = max(self.most_beside, len(beside) - self.terms.fleet.jobs)

    def _changes(self) -> Iterator[float]:
        """When something becomes of what is alive."""
        for attempt in self.alive:
            life = self._lives[attempt.attempt]
            times = [attempt.created + life.lives]
            if life.machines is not None:
                has = attempt.created + life.machines
                times += [has, has + WARM]
            yield from (at for at in times if at > self.now)

    def _age(self) -> None:
        for attempt in self.alive:
            life, born = self._lives[attempt.attempt], attempt.created
            has = life.machines is not None and self.now >= born + life.machines
            if has and attempt.started is None:
                at = born + (life.machines or 0.0)
                self.attempts[attempt.attempt] = replace(attempt, state="RUNNING", started=at)
            if self.now >= born + life.lives:
                trained = life.trained if has else 0
                self._over(attempt.attempt, born + life.lives, trained=trained, **dict(life.how))

    def _over(self, number: int, at: float, **how: Any) -> None:
        self.attempts[number] = replace(self.attempts[number], ended=at, **how)


# Whatever may become of a job on Spot.
LIVES = st.one_of(
    st.builds(preempted, st.floats(1.0, 7200.0)),
    st.builds(dry, st.floats(0.0, 1200.0)),
    st.sampled_from(["exited with status 134", "Internal error"]).map(fails),
    st.builds(
        lambda machines, more: Life(machines, machines + more),
        st.floats(0.0, 3600.0),
        st.floats(0.0, 7200.0),
    ),
)
