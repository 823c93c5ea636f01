"""A run's controllers: a thin loop's turn that carries out what ``controllers`` decides.

It goes by the rules of ``supervisor``: a record is created exclusively before its request is sent,
and only who created it sends it; one without a CustomJob is looked for by its labels, and counts as
never sent after the target's ``settle``. So it may be stopped at any moment, and others go on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from launcher.api.apierror import ApiError
from launcher.api.vertex import JobState
from launcher.job.customjob import CustomJob
from launcher.supervision.attendance import Attendance
from launcher.supervision.controllers import (
    Action,
    Cancel,
    ControllerRecord,
    Find,
    GiveUp,
    Send,
    Situation,
    decide,
    read_controllers,
    record_name,
    usd_of,
)
from launcher.supervision.dates import Dates
from launcher.supervision.replacement import USUAL_TIMEOUT
from launcher.target import Target
from trainer.rundir.attempts import LOST, REFUSED
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter
from trainer.rundir.usererror import shown


@dataclass(frozen=True)
class Wish:
    """What a run's controllers are to be.

    Attributes:
        run_id: the run.
        regions: where, in order: the next one where one was refused, or got no machine.
        machine: its machine type.
        usd_per_hour: what that costs.
        timeout: seconds that one may run.
    """

    run_id: str
    regions: tuple[str, ...]
    machine: str
    usd_per_hour: float | None
    timeout: float = USUAL_TIMEOUT.total_seconds()


class Staff:
    """Sees to it that a run has a controller.

    Args:
        run_dir: the run.
        wish: what they are to be.
        target: where their CustomJobs go.
        request: makes one from its number and the API's endpoint; None where this machine cannot:
            it has not what a controller must be entrusted with.
        attendance: who looks after the run.
        events: where what happens is written.
        clock: returns Unix seconds.
        ticks: returns seconds that pass alike.
        own: the controller that this is; 0 for none.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        wish: Wish,
        target: Target,
        request: Callable[[int, str], CustomJob] | None,
        attendance: Attendance,
        events: EventWriter,
        clock: Callable[[], float],
        ticks: Callable[[], float],
        own: int = 0,
    ) -> None:
        self._run_dir, self._wish, self._target = run_dir, wish, target
        self._request, self._attendance, self._events = request, attendance, events
        self._dates, self._own = Dates(clock, ticks), own
        self._ticks = ticks
        self._cancel_sent: dict[int, str] = {}  # and why
        self._away: dict[tuple[int, bool], float] = {}  # since when; see _away_for
        self._refusals: dict[int, ApiError] = {}
        self.records: dict[int, ControllerRecord] = {}
        self.trouble = ""  # why no controller can be had
        self.run_has_ended = False  # as of the last turn
        self.silence = ""  # what the API does not answer now

    @property
    def here(self) -> frozenset[int]:
        """The controllers that look after the run, as of the last turn."""
        return self._attendance.controllers

    @property
    def over(self) -> frozenset[int]:
        """The controllers whose CustomJobs have ended."""
        return frozenset(it.number for it in self.records.values() if it.over)

    @property
    def others_are_over(self) -> bool:
        """Whether nothing of any can still run, but of this one."""
        return all(it.over for it in self.records.values() if it.number != self._own)

    def usd(self, now: float) -> float | None:
        """What all have cost until ``now``; None when that is not known."""
        return usd_of([*self.records.values()], now)

    def end_own(self) -> None:
        """Writes down that this one ends, as nobody may be left to see it. Raises OSError."""
        record = self.records.get(self._own)
        if record is not None and not record.over:
            self._record(replace(record, state="SUCCEEDED", ended=self._dates.now()))

    def turn(self, run_has_ended: bool) -> None:
        """Looks at them once, and does what is to be done.

        Args:
            run_has_ended: whether the run has.

        Raises OSError when the run directory does not answer, and ApiError when the API refuses to
        show what there is.
        """
        self.silence, self.run_has_ended = "", run_has_ended
        self._read()
        self._attendance.look(self.over)
        for number in [it.number for it in self.records.values() if it.job and not it.over]:
            self._look(number)
        here = self._attendance.controllers
        relieved = [n for n in self.records if any(n < one for one in here)]
        situation = Situation(
            tuple(self.records[number] for number in sorted(self.records)),
            here,
            self._attendance.lives,
            self._own,
            self._wish.timeout,
            self._dates.since("ended") if run_has_ended else None,
            {number: self._dates.since(f"{number} is relieved") for number in relieved},
            self._away_for(here),
            frozenset(self._cancel_sent),
        )
        for action in [*decide(situation, self._dates.now())]:
            self._carry_out(action)
        self._events.flush()

    def _away_for(self, here: frozenset[int]) -> dict[int, float]:
        """For how many seconds each that is not here has waited for its machine, or has had it."""
        now = self._ticks()
        away = {
            (it.number, it.started is not None)
            for it in self.records.values()
            if it.job and not it.over and it.number not in here
        }
        self._away = {which: self._away.get(which, now) for which in away}
        return {number: now - since for (number, _), since in self._away.items()}

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send(number):
                self._send(number)
            case Find(number):
                self._find(number)
            case Cancel(number, reason):
                self._cancel(number, reason)
            case GiveUp(reason):
                self.trouble = reason

    def _send(self, number: int) -> None:
        if self._request is None:
            self.trouble = "what it must be entrusted with is on the machine that launched the run"
            return
        in_vain = sum(it.over and it.started is None for it in self.records.values())
        region = self._wish.regions[in_vain % len(self._wish.regions)]
        api = self._target.api(region)
        record = ControllerRecord(
            number,
            region,
            api.endpoint,
            self._wish.machine,
            created=self._dates.now(),
            usd_per_hour=self._wish.usd_per_hour,
        )
        if not self._run_dir.create_json(record_name(number), record.to_json()):
            return self._read()  # somebody else sends it
        self.records[number] = record
        try:
            job = api.submit(self._request(number, api.endpoint))
        except ApiError as error:
            self._refusals[number] = error
            if error.transient:
                self.silence = shown(error)  # it may have arrived
            else:
                self._ended(number, REFUSED, shown(error))
            return
        known = ControllerRecord.from_json(self._run_dir.read_json(record_name(number)))
        if known.over:  # this took so long that somebody else has given it up
            with suppress(ApiError):
                api.cancel(job.name)
            return self._read()
        self._adopt(number, job, self._dates.now())

    def _find(self, number: int) -> None:
        api = self._target.api(self.records[number].region)
        try:
            jobs = api.find_controller(self._wish.run_id, number)
        except ApiError as error:
            return self._silent(error)
        if jobs:
            now = self._dates.now()
            self._adopt(number, jobs[0], min(jobs[0].created or now, now))
        elif self._dates.since(f"{number} is looked for") >= self._target.settle:
            why = self._refusals.get(number)
            said = shown(why) if why else "it was never sent: its sender had ended"
            self._ended(number, REFUSED, said)
        else:
            self._read()  # its sender may live, and know by now

    def _adopt(self, number: int, job: JobState, submitted: float) -> None:
        record = replace(self.records[number], job=job.name, submitted=submitted, state=job.state)
        self._events.emit(
            "controller_started", controller=number, job=job.name, region=record.region
        )
        self._record(self._dated(record, job))

    def _look(self, number: int) -> None:
        record = self.records[number]
        assert record.job
        try:
            job = self._target.api(record.region).get(record.job)
        except ApiError as error:
            if error.code != 404:
                return self._silent(error)
            return self._ended(number, LOST, shown(error))
        if job.ended:
            self.records[number] = self._dated(record, job)
            why = self._cancel_sent.get(number) if job.state == "CANCELLED" else None
            said = f"cancelled by who looks after the run: {why}" if why else job.reason
            self._ended(number, job.state, said)
        elif job.state != record.state or (job.started and record.started is None):
            self._record(replace(self._dated(record, job), state=job.state))

    def _dated(self, record: ControllerRecord, job: JobState) -> ControllerRecord:
        return replace(record, started=self._dates.start_of(job, record.submitted, record.started))

    def _cancel(self, number: int, reason: str) -> None:
        record = self.records[number]
        assert record.job
        try:
            self._target.api(record.region).cancel(record.job)
        except ApiError as error:
            if error.transient:
                return self._silent(error)
        self._cancel_sent[number] = reason

    def _ended(self, number: int, state: str, reason: str) -> None:
        record = replace(self.records[number], state=state, reason=reason, ended=self._dates.now())
        self._events.emit("controller_ended", controller=number, state=state, reason=reason or None)
        self._record(record)

    def _silent(self, error: ApiError) -> None:
        """An API that does not answer now is asked again; raises what will not pass."""
        if not error.transient:
            raise error
        self.silence = shown(error)

    def _record(self, record: ControllerRecord) -> None:
        self.records[record.number] = record
        self._run_dir.write_json(record_name(record.number), record.to_json())

    def _read(self) -> None:
        # Those of a directory that is away are there all the same: none is sent a second time.
        self.records |= {it.number: it for it in read_controllers(self._run_dir)}
        for it in self.records.values():
            self._dates.read(it.created, it.submitted, it.started, it.ended)
