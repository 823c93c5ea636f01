"""A whole run in simulation: the launcher's own decisions, a simulated cloud and training.

What is assumed of the training: it is as fast as there are machines; 10 s pass without a step
whenever the world changes; fewer than ``elastic.min_workers`` do not train. A checkpoint is written
every 10 minutes, and when fewer are left than can train; what came after the last one is lost when
nobody is left who has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cloud import Cloud, CustomJob, Worker
from launcher.emulator.jobs.lifecycle import Survivors
from launcher.emulator.market.market import Capacity
from launcher.job.job import Job
from launcher.job.machines import MACHINES
from launcher.supervision.attempt import Attempt
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.fleet import Fleet
from launcher.supervision.policy import Cancel, Leave, Situation, Submit, Terms, Wait, Watch, decide

PAUSE = 10.0  # seconds without a step when the world changes
CHECKPOINT = 600.0
LONGEST = 14 * 86_400.0  # a run that takes longer is given up


class Training:
    """How far a run is, in machine-seconds, and who knows.

    Args:
        work: how much there is to do.
        fewest: with how many workers it trains.

    Attributes:
        seconds: in which it trained.
        finished: when it was done; None before.
    """

    def __init__(self, work: float, fewest: int) -> None:
        self.seconds = 0.0
        self.finished: float | None = None
        self._work = work
        self._fewest = fewest
        self._done = 0.0
        self._saved = 0.0
        self._resumes = 0.0
        self._world: frozenset[Worker] = frozenset()
        self._holders: frozenset[Worker] = frozenset()  # of the newest state

    @property
    def step(self) -> int:
        """How far it is."""
        return int(self._done)

    @property
    def machines(self) -> int:
        """How many train."""
        return len(self._world)

    def form(self, workers: frozenset[Worker], now: float) -> None:
        """From now on it has these workers."""
        if self._holders and not self._holders & workers:
            self._done = self._saved
        self._holders &= workers
        world = workers if len(workers) >= self._fewest else frozenset()
        if world != self._world and self._world:
            self._resumes = now + PAUSE
        if world:
            self._holders = world
        elif self._holders:
            self._saved = self._done
        self._world = world

    def go_on(self, now: float, until: float) -> None:
        """Trains from ``now`` on, at most until then."""
        rate, begin = len(self._world), max(now, self._resumes)
        if not rate or until <= begin:
            return
        end = min(until, begin + (self._work - self._done) / rate)
        self._done += rate * (end - begin)
        self.seconds += end - begin
        checkpoint = end // CHECKPOINT * CHECKPOINT
        if checkpoint > begin:
            self._saved = self._done - rate * (end - checkpoint)
        if end < until:
            self.finished = end


class Launcher:
    """The supervisor's part: keeps the attempts' records, and does what the policy decides.

    Args:
        job: what is run.
        seed: the id of the run, which decides how long it pauses.
        knows_after: seconds after which it knows, and gives up, an attempt that has lost all its
            machines; None as it is, when it waits for Vertex AI to end that.
    """

    def __init__(self, job: Job, seed: str, knows_after: float | None = None) -> None:
        self._knows_after = math.inf if knows_after is None else knows_after
        self._bare_since: dict[int, float] = {}
        anchors = choices_of(job.anchors(), "local") if job.fleet.anchor else ()
        self._terms = Terms(
            seed,
            tuple(choices_of(job, "local")),
            0.0,
            job.resubmit,
            fleet=Fleet(job.fleet.jobs, job.fleet.anchor, tuple(anchors)),
            stop_grace=600.0,
        )
        self.attempts: dict[int, Attempt] = {}
        self._cancelled: set[int] = set()
        self.due = 0.0  # when something is to be done, if nothing happens before

    def look(self, cloud: Cloud, over: Iterable[CustomJob], step: int, now: float) -> None:
        """Writes down what has become of the attempts' jobs."""
        for job in (*cloud.jobs.values(), *over):
            known, state = self.attempts[job.number], job.lifecycle.state
            if (known.state, known.started) == (state.name, job.started):
                continue
            record = replace(known, state=state.name, started=job.started)
            if error := job.lifecycle.error:
                record = replace(record, reason=error.message, code=error.code)
            if state.terminal:
                record = replace(record, ended=now, step=step)
            self.attempts[job.number] = record
            self.due = now

    def give_up(self, cloud: Cloud, now: float) -> bool:
        """Leaves attempts of which it knows that they have lost all. Returns whether it has any."""
        bare = [job.number for job in cloud.jobs.values() if job.started and not job.machines]
        self._bare_since = {number: self._bare_since.get(number, now) for number in bare}
        known = [
            number
            for number, since in self._bare_since.items()
            if now - since >= self._knows_after and not self.attempts[number].left
        ]
        for number in known:
            self.attempts[number] = replace(self.attempts[number], left="it has no machines")
            self.due = now
        return bool(known)

    def act(self, cloud: Cloud, now: float) -> bool:
        """Does what is due. Returns whether that has changed anything."""
        if now < self.due:
            return False
        self.due, changed = math.inf, False
        situation = Situation(tuple(self.attempts.values()), cancel_sent=frozenset(self._cancelled))
        for action in decide(self._terms, situation, now):
            match action:
                case Submit(number, choice):
                    cloud.submit(number, choice)
                    self.attempts[number] = _record(number, choice, now)
                    self.due, changed = now, True
                case Leave(number, reason):
                    self.attempts[number] = replace(self.attempts[number], left=reason)
                    self.due, changed = now, True
                case Cancel(number):
                    cloud.cancel(number, now)
                    self._cancelled.add(number)
                    changed = True
                case Wait(until):
                    self.due = until
                case _:
                    assert isinstance(action, Watch), action
        return changed


def _record(number: int, choice: Choice, now: float) -> Attempt:
    return Attempt(number, choice.region, "x", choice.name, "job", "PENDING", created=now)


@dataclass
class Result:
    """What a run took.

    Attributes:
        hours: until it was finished; None if it was not.
        usd: what its machines cost.
        attempts: how many CustomJobs it sent.
        trained: the share of the time in which it trained.
        timeline: from which hour on how many machines trained.
    """

    hours: float | None = None
    usd: float = 0.0
    attempts: int = 0
    trained: float = 0.0
    timeline: list[tuple[float, int]] = field(default_factory=list)


def simulate(
    job: Job,
    work: float,
    capacity: Capacity,
    survivors: Survivors,
    seed: int,
    knows_after: float | None = None,
) -> Result:
    """Returns what a run takes.

    Args:
        job: what is run.
        work: machine-seconds that it needs.
        capacity: the machines that there are for it.
        survivors: what becomes of the other machines of a CustomJob that loses one.
        seed: decides which machines are lost, and how long the run pauses.
        knows_after: see Launcher.
    """
    cloud, launcher = Cloud(capacity, survivors, seed), Launcher(job, f"run-{seed}", knows_after)
    training, result = Training(work, job.elastic.min_workers), Result()
    now = 0.0
    while now < LONGEST and training.finished is None:
        changed = True
        while changed:
            over = cloud.trade(now)
            training.form(cloud.workers(now), now)
            launcher.look(cloud, over, training.step, now)
            gave_up = launcher.give_up(cloud, now)
            changed = launcher.act(cloud, now) or gave_up
        until = min(cloud.next_change(now), launcher.due, LONGEST)
        result.timeline.append((now / 3600, training.machines))
        training.go_on(now, until)
        until = training.finished or until
        rate = sum(it.machines * _price(it.choice) for it in cloud.jobs.values())
        result.usd += rate * (until - now) / 3600
        now = until
    result.attempts = len(launcher.attempts)
    result.trained = training.seconds / now
    result.hours = None if training.finished is None else now / 3600
    return result


def _price(choice: Choice) -> float:
    machine = MACHINES[choice.job.pools[0].machine]
    price = machine.on_demand if choice.job.scheduling.strategy == "standard" else machine.spot
    assert price is not None
    return price.usd_per_hour
