"""Sees a run through its attempts: a thin loop that carries out what ``policy`` decides.

All it knows is in the run directory, so it can be stopped at any moment, by SIGKILL too, and
another one goes on from there, on any machine. That leads neither to two CustomJobs nor to none:

- An attempt's record is created exclusively before its request is sent, and only who created it
  sends it. Of two supervisors that would submit at the same time, one watches the other's.
- A record without a CustomJob may have been sent or not. The job is looked for by its labels; if
  it is not there after the target's ``settle``, in which its sender would have given up and Vertex
  AI would show it, the attempt counts as never sent, and the next number is submitted.
- What the run directory does not take now (it does not answer, or its disk is full) waits, for as
  long as that is so: the run itself goes on meanwhile.
- Every attempt has a token of its own, and run.json the hash of the newest: should a CustomJob that
  was given up appear after all, its agents are not let into the run, and end.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from launcher.api.apierror import ApiError
from launcher.api.vertex import JobState
from launcher.job.customjob import CustomJob
from launcher.supervision.attempt import LOST, REFUSED, UNSENT, Attempt, read_attempts, record_name
from launcher.supervision.choices import DRY, Choice
from launcher.supervision.policy import (
    Action,
    Cancel,
    Done,
    End,
    Find,
    Leave,
    Situation,
    Stop,
    Submit,
    Terms,
    Wait,
    Watch,
    decide,
)
from launcher.supervision.verdict import verdict_of
from launcher.target import Target
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, EventWriter
from trainer.rundir.names import OutcomeState
from trainer.rundir.retry import may_pass
from trainer.rundir.usererror import shown

# Seconds for which a failed CustomJob may not say why; Vertex AI takes one minute.
ERROR_WAIT = 120.0
HOLD = 1.0  # seconds between two looks at a run directory that takes nothing


class Supervisor:
    """Carries out what ``decide`` says, until the run is done.

    Args:
        run_dir: the run; run.json is there already.
        terms: what it was launched with.
        target: where its CustomJobs go.
        request: makes the CustomJob of an attempt from its number and choice; called when nobody
            else can submit that number any more.
        steps: returns how many steps the run has completed.
        listener: called with each event that this writes; see EventWriter.
        clock: returns Unix seconds.
        ticks: returns seconds that pass alike, whoever sets the clock of this machine; those in
            which it slept do not count.
        sleep: waits for so many seconds, or less.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        terms: Terms,
        target: Target,
        request: Callable[[int, Choice], CustomJob],
        *,
        steps: Callable[[], int] = lambda: 0,
        listener: Callable[[Event], object] = lambda event: None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._run_dir = run_dir
        self._terms = terms
        self._target = target
        self._request = request
        self._steps = steps
        self._clock = clock
        self._ticks = ticks
        self._sleep = sleep
        self._patience = target.patience
        # No other writer of the run may have the name: an earlier launch, or one elsewhere.
        writer = f"launcher-{secrets.token_hex(4)}"
        self._events = EventWriter(run_dir, writer, clock, listener)
        self._attempts: list[Attempt] = []
        self._cancel_sent = False
        self._answered = ticks()
        self._unwritten = False  # whether the last attempt's record lags behind
        self._held = ""  # why the run directory is waited for
        self._since: dict[str, float] = {}  # when something was first seen here
        self._refusal: ApiError | None = None  # of a request that may have arrived all the same
        self._waits: Wait | None = None

    def lose_patience(self) -> None:
        """From now on an attempt is lost as soon as the API gives no answer. For other threads."""
        self._patience = 0.0

    def run(self) -> dict[str, Any]:
        """Sees the run through. Returns outcome.json as it counts.

        Raises ApiError when the API does not let it look at a CustomJob (the run goes on, and
        ``swell attach`` sees it through from there), and OSError when the run directory is gone.
        """
        known = False
        while True:
            try:
                if not known:
                    self._read_attempts()
                    known = True
                outcome = self._turn()
            except OSError as error:
                if not may_pass(error):
                    raise
                self._hold(error)
                continue
            self._held = ""
            if outcome is not None:
                return outcome

    def _turn(self) -> dict[str, Any] | None:
        """Decides once, and carries that out. Returns the outcome when there is no more to do."""
        if self._unwritten:
            with suppress(OSError):
                self._record(self._attempts[-1])
        outcome = self._run_dir.outcome()
        stop = self._run_dir.stop_asked() if outcome is None and self._attempts else None
        situation = Situation(
            tuple(self._attempts),
            outcome,
            self._cancel_sent,
            0.0 if outcome is None else self._seconds_since("outcome"),
            None if stop is None else str(stop.get("reason")),
            0.0 if stop is None else self._seconds_since("stop"),
        )
        action = decide(self._terms, situation, self._clock())
        if isinstance(action, Done):
            assert outcome is not None
            with suppress(OSError):  # how the run ended is on record
                self._events.flush()
            return outcome
        self._carry_out(action)
        return None

    def _hold(self, error: OSError) -> None:
        """Waits for a run directory that takes nothing now."""
        if self._held != str(error):
            self._held = str(error)
            self._events.emit("store_unavailable", reason=self._held)
        self._sleep(max(self._target.poll, HOLD))

    def _carry_out(self, action: Action) -> None:
        match action:
            case Submit(number, choice):
                self._submit(number, choice)
            case Wait():
                self._wait(action)
            case Find():
                self._find()
            case Stop(reason):
                self._run_dir.ask_to_stop("limited", reason)
                self._events.emit("stop_asked", reason=reason)
                self._events.flush()
            case End(state, reason):
                end_run(self._run_dir, self._events, state, reason)
            case Leave(reason):
                self._record(replace(self._attempts[-1], left=reason))
                self._events.emit("attempt_left", attempt=self._attempts[-1].attempt, reason=reason)
                self._events.flush()
            case Cancel():
                self._cancel()
            case Watch():
                self._sleep(self._target.poll)
                self._look()

    # --- submitting -------------------------------------------------------------------

    def _submit(self, number: int, choice: Choice) -> None:
        api = self._target.api(choice.region)
        attempt = Attempt(
            number,
            choice.region,
            api.endpoint,
            choice.name,
            created=self._clock(),
            usd_per_hour=choice.usd_per_hour,
        )
        # On record before it is sent: after a crash in between, the label finds the job.
        if not self._run_dir.create_json(record_name(number), attempt.to_json()):
            self._read_attempts()  # somebody else submits it
            return
        self._attempts.append(attempt)
        self._cancel_sent, self._refusal, self._waits = False, None, None
        try:
            job = api.submit(self._request(number, choice))
        except ApiError as error:
            if not error.transient:
                self._ended(REFUSED, shown(error), error.code, error.kind)
            self._refusal = error
            return
        record = Attempt.from_json(self._run_dir.read_json(record_name(number)))
        if record.over:  # this took so long that somebody else has given it up
            api.cancel(job.name)
            self._read_attempts()
            return
        self._adopt(job)

    def _find(self) -> None:
        """Finds out whether the last attempt, which is on record, was sent."""
        attempt = self._attempts[-1]
        waited = self._seconds_since(f"attempt {attempt.attempt}")
        try:
            jobs = self._target.api(attempt.region).find(self._terms.run_id, attempt.attempt)
        except ApiError as error:
            if not error.transient:
                raise
            self._sleep(self._target.poll)
            self._give_up_silence(error)
            return
        self._answered = self._ticks()
        if jobs:
            self._adopt(jobs[0])
        elif waited < self._target.settle:
            self._sleep(min(self._target.poll, self._target.settle - waited))
            self._read_attempts()  # its sender may live, and know by now
        elif self._refusal:
            why = self._refusal
            self._ended(REFUSED, str(why), why.code, why.kind)
        else:
            self._ended(REFUSED, "it was never sent: its launcher had ended", kind=UNSENT)

    def _adopt(self, job: JobState) -> None:
        attempt = replace(self._attempts[-1], job=job.name, submitted=job.created or self._clock())
        self._answered = self._ticks()
        self._events.emit(
            "attempt_started",
            attempt=attempt.attempt,
            job=job.name,
            region=attempt.region,
            choice=attempt.choice or None,
        )
        self._record(self._with_state(attempt, job))
        home, buckets = self._attempts[0].region, self._terms.choices[0].job.checkpoint.buckets
        away = attempt.region != home and attempt.region not in buckets
        if away and not self._run_dir.store.is_local:
            self._events.emit("moved", attempt=attempt.attempt, region=attempt.region, home=home)
        self._events.flush()

    def _wait(self, wait: Wait) -> None:
        seconds = max(0.0, wait.until - self._clock())
        if self._waits is None or self._waits != wait:
            self._waits = wait
            self._events.emit(
                "attempt_due",
                attempt=len(self._attempts) + 1,
                choice=wait.choice.name,
                seconds=round(seconds, 1),
            )
            self._events.flush()
        self._sleep(min(self._target.poll, seconds))

    # --- watching ---------------------------------------------------------------------

    def _look(self) -> None:
        attempt = self._attempts[-1]
        assert attempt.job
        try:
            job = self._target.api(attempt.region).get(attempt.job)
        except ApiError as error:
            if error.code == 404:
                self._ended(LOST, shown(error), error.code, error.kind)
            elif error.transient:
                self._give_up_silence(error)
            else:
                raise
            return
        self._answered = self._ticks()
        if job.ended and not self._explains_itself_later(job):
            self._attempts[-1] = self._with_state(attempt, job)
            self._ended(job.state, job.reason, job.code, at=job.finished)
        elif job.state != attempt.state or (job.started and attempt.started is None):
            self._record(self._with_state(attempt, job))

    def _with_state(self, attempt: Attempt, job: JobState) -> Attempt:
        started = attempt.started or job.started or None
        if started is None and job.state == "RUNNING":
            started = self._clock()
        state = attempt.state if job.ended else job.state  # its end is recorded by itself
        endpoint = self._target.api(attempt.region).endpoint
        return replace(attempt, state=state, started=started, endpoint=endpoint)

    def _explains_itself_later(self, job: JobState) -> bool:
        if job.state != "FAILED" or job.reason or job.code:
            return False
        return self._seconds_since(f"the failure of {job.name}") < ERROR_WAIT

    def _give_up_silence(self, error: ApiError) -> None:
        silent = self._ticks() - self._answered
        if self._patience is not None and silent > self._patience:
            self._ended(LOST, shown(error), error.code, error.kind)

    def _cancel(self) -> None:
        attempt = self._attempts[-1]
        assert attempt.job
        try:
            self._target.api(attempt.region).cancel(attempt.job)
        except ApiError as error:
            # A job that has ended meanwhile cannot be cancelled: looking again tells.
            self._cancel_sent = not error.transient
            self._sleep(self._target.poll)
            self._look()
        else:
            self._cancel_sent = True

    # --- records ----------------------------------------------------------------------

    def _ended(
        self, state: str, reason: str, code: int = 0, kind: str = "", at: float = 0.0
    ) -> None:
        attempt = replace(
            self._attempts[-1],
            state=state,
            reason=reason,
            code=code,
            kind=kind,
            ended=at or self._clock(),
            step=self._steps(),
        )
        verdict = verdict_of(attempt)
        if verdict in DRY:
            self._events.emit(
                "stockout", attempt=attempt.attempt, region=attempt.region, reason=reason or None
            )
        self._events.emit(
            "attempt_ended",
            attempt=attempt.attempt,
            state=state,
            verdict=verdict,
            reason=reason or None,
        )
        self._record(attempt)
        self._events.flush()

    def _record(self, attempt: Attempt) -> None:
        self._attempts[-1] = attempt
        self._unwritten = True
        self._run_dir.write_json(record_name(attempt.attempt), attempt.to_json())
        self._unwritten = False

    def _read_attempts(self) -> None:
        self._attempts = [Attempt.from_json(record) for record in read_attempts(self._run_dir)]

    def _seconds_since(self, what: str) -> float:
        """Seconds since ``what`` was first seen here: clocks of machines are not compared."""
        now = self._ticks()
        return now - self._since.setdefault(what, now)


def end_run(run_dir: RunDirectory, events: EventWriter, state: OutcomeState, reason: str) -> bool:
    """Ends the run unless it has ended. Returns whether this call did it."""
    if not run_dir.end(state, reason):
        return False
    events.emit("finished", state=state, reason=reason)
    with suppress(OSError):  # it is on record
        events.flush()
    return True
