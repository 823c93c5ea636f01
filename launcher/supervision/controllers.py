"""What to do about a run's controllers, purely: one is to be there for as long as the run goes on.

A controller is a CustomJob with a number. ``controllers/0001.json`` is its record, created
exclusively before the request is sent, as an attempt's is: so whoever looks after the run may send
the next one, and there are never two of a number. Vertex AI starts one again that fails. Another
one is sent

- when none is alive: at once, and after a pause when the last ones have ended without ever having
  looked after the run, twice as long each time; after MAX_FRUITLESS of these it is given up;
- beside one that will not last: its timeout is near, or it has begun so often that Vertex AI may
  not start it again. That one ends by itself when the other is there (see ``attendance``); if it
  does not within GRACE, it is cancelled. Until it has ended, no third is sent, however near to its
  own timeout the other comes meanwhile.

One that has had no machine for PATIENCE, or has one and has not been heard of for ABSENT (its
process hangs, or begins again and again in vain), is cancelled, so that another one can be sent.
Only others see that: a launch, an attach, or its own successor.

When the run has ended, controllers end by themselves. One that has not within GRACE is cancelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic.dataclasses import dataclass as strict_dataclass

from launcher.records import STRICT, read_record
from launcher.supervision.replacement import LEAD, USUAL_TIMEOUT
from trainer.rundir.attempts import ENDED
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import CONTROLLERS
from trainer.rundir.retry import Backoff

GRACE = 60.0  # seconds: what a webhook is still to be told may take a while
PATIENCE = 1800.0  # seconds that one on demand may wait for its machine
ABSENT = 900.0  # seconds: to be started again on another machine takes minutes
MAX_FRUITLESS = 4
MOST = 2  # alive at a time: one, and who relieves it
MAX_LIVES = 3  # Vertex AI starts a replica again five times, as far as its documentation goes
PAUSES = Backoff(first=30.0, longest=600.0, jitter=0.0)
SUBMITTING = "SUBMITTING"


@strict_dataclass(frozen=True, config=STRICT)
class ControllerRecord:
    """One controller's CustomJob. Times are Unix seconds.

    Attributes:
        number: from 1.
        region, endpoint: where it was sent.
        machine: its machine type.
        job: projects/P/locations/L/customJobs/ID, once that is known.
        state: of the CustomJob, or SUBMITTING, REFUSED, LOST.
        reason: why it ended.
        created: when the record was.
        submitted: when the API had taken it.
        started: when it ran for the first time.
        ended: when it was over.
        usd_per_hour: what its machine costs, estimated; None when that is not known.
    """

    number: int = 0
    region: str = ""
    endpoint: str = ""
    machine: str = ""
    job: str | None = None
    state: str = SUBMITTING
    reason: str = ""
    created: float = 0.0
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    usd_per_hour: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing of it can still run."""
        return self.state in ENDED

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ControllerRecord:
        """Returns the controller of a record; what is not as it should be is left at default."""
        return read_record(cls, record)

    def to_json(self) -> dict[str, Any]:
        """Returns the record."""
        return asdict(self)


def record_name(number: int) -> str:
    """Returns the name of a controller's record in the run directory."""
    return f"{CONTROLLERS}/{number:04d}.json"


def read_controllers(run_dir: RunDirectory) -> list[ControllerRecord]:
    """Returns a run's controllers, in order. Raises OSError when the store does not say."""
    names = {f"{CONTROLLERS}/{name}" for name in run_dir.store.names(CONTROLLERS)}
    said = [name.rpartition("/")[2].removesuffix(".json") for name in names]
    numbers = sorted(int(name) for name in said if name.isascii() and name.isdecimal())
    numbers = [number for number in numbers if record_name(number) in names]
    records = run_dir.store.each(run_dir.read_json, [record_name(number) for number in numbers])
    return [
        ControllerRecord.from_json({**record, "number": number})
        for number, record in zip(numbers, records, strict=True)
    ]


def usd_of(controllers: Sequence[ControllerRecord], now: float) -> float | None:
    """Returns what controllers have cost until ``now``, in Unix seconds; None if not known."""
    usd = 0.0
    for it in controllers:
        if it.started is None:
            continue
        if it.usd_per_hour is None:
            return None
        end = now if it.ended is None else it.ended
        usd += max(0.0, end - it.started) / 3600 * it.usd_per_hour
    return usd


@dataclass(frozen=True)
class Situation:
    """Where a run's controllers stand.

    Attributes:
        controllers: in order.
        here: those that look after the run now.
        lives: how often each has begun, by its number.
        own: the one that asks; 0 for none.
        timeout: seconds that one may run.
        ended_for: for how many seconds the run has been known to have ended; None if it has not.
        relieved_for: the same of controllers beside which a newer one looks after the run.
        away_for: the same of those that are not here: since they have their machines, if they do.
        cancel_sent: those that were asked to end.
    """

    controllers: tuple[ControllerRecord, ...] = ()
    here: frozenset[int] = frozenset()
    lives: Mapping[int, int] = field(default_factory=dict)
    own: int = 0
    timeout: float = USUAL_TIMEOUT.total_seconds()
    ended_for: float | None = None
    relieved_for: Mapping[int, float] = field(default_factory=dict)
    away_for: Mapping[int, float] = field(default_factory=dict)
    cancel_sent: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Send:
    """Send the CustomJob of this controller."""

    number: int


@dataclass(frozen=True)
class Find:
    """Look for a controller's CustomJob by its labels: it is not known whether there is one."""

    number: int


@dataclass(frozen=True)
class Cancel:
    """Cancel a controller's CustomJob, and say why."""

    number: int
    reason: str


@dataclass(frozen=True)
class GiveUp:
    """No controller can be had: why."""

    reason: str


Action = Send | Find | Cancel | GiveUp


def decide(situation: Situation, now: float) -> Iterator[Action]:
    """Yields all that is to be done now; see the module.

    Args:
        situation: where they stand.
        now: Unix seconds.
    """
    live = [it for it in situation.controllers if not it.over]
    yield from (Find(it.number) for it in live if it.job is None)
    if situation.ended_for is not None:
        if situation.ended_for >= GRACE:
            yield from _cancels(situation, {it.number: "the run has ended" for it in live})
        return
    newest = max((it.number for it in situation.controllers), default=0)
    if len(live) < MOST and all(_will_not_last(situation, it, now) for it in live):
        failed = _fruitless(situation)
        if len(failed) >= MAX_FRUITLESS and not live:
            why = failed[-1].reason or f"its CustomJob ended {failed[-1].state}"
            yield GiveUp(f"{len(failed)} in a row have not come to look after it; the last: {why}")
        elif not failed or now >= (failed[-1].ended or 0.0) + PAUSES.wait(len(failed), 0.0):
            yield Send(newest + 1)
    late = {it.number: why for it in live if (why := _too_late(situation, it))}
    yield from _cancels(situation, late)


def _too_late(situation: Situation, it: ControllerRecord) -> str:
    """Why a controller is to end that has not; empty if it is not to."""
    if situation.relieved_for.get(it.number, -math.inf) >= GRACE:
        return "another one looks after the run"
    away = situation.away_for.get(it.number, -math.inf)
    if it.started is None:
        return f"it has had no machine for {PATIENCE / 60:.0f} min" if away >= PATIENCE else ""
    return f"it has not been heard of for {ABSENT / 60:.0f} min" if away >= ABSENT else ""


def _will_not_last(situation: Situation, it: ControllerRecord, now: float) -> bool:
    if situation.lives.get(it.number, 0) > MAX_LIVES:
        return True
    lead = min(LEAD.total_seconds(), situation.timeout / 2)
    return it.started is not None and now - it.started >= situation.timeout - lead


def _fruitless(situation: Situation) -> list[ControllerRecord]:
    """The last ones in a row that are over, and never looked after the run."""
    failed: list[ControllerRecord] = []
    for it in reversed(situation.controllers):
        if not it.over:
            continue
        if situation.lives.get(it.number, 0):
            break
        failed.append(it)
    return failed[::-1]


def _cancels(situation: Situation, late: Mapping[int, str]) -> Iterator[Cancel]:
    sent = {it.number for it in situation.controllers if it.job is not None}
    for number in sorted(sent - situation.cancel_sent - {situation.own}):
        if number in late:
            yield Cancel(number, late[number])
