"""Sees a run through its attempts: a pure policy inside a thin loop.

``decide`` looks at what is on record and says what to do next:

==================  ====================  ==========================================
outcome             last attempt          action
==================  ====================  ==========================================
none                none                  Submit attempt 1
none                not ended             Watch
none                succeeded             End succeeded (it was not our agent's job to say so)
none                cancelled             End cancelled: somebody cancelled the CustomJob
none                ended otherwise       End failed, with the API's reason
cancelled           not ended             Cancel the CustomJob, once; then Watch
succeeded, failed   not ended             Watch: the agents exit by themselves;
                                          Cancel after GRACE, a VM may hang
any                 none, or ended        Done
==================  ====================  ==========================================

``supervise`` carries the actions out. All it knows is in the run directory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from launcher.apierror import ApiError
from launcher.job.customjob import CustomJob
from launcher.vertex import JobState
from trainer.events import Event, EventWriter
from trainer.rundir import ATTEMPTS, OutcomeState, RunDirectory

GRACE = 30.0  # seconds that replicas get to exit after the run has ended
PATIENCE = 600.0  # seconds without an answer after which an attempt is given up

SUBMITTING = "SUBMITTING"
REFUSED = "REFUSED"  # the API did not take the request
LOST = "LOST"  # the API no longer answers
ENDED = frozenset(
    {"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED", REFUSED, LOST}
)


@dataclass(frozen=True)
class Attempt:
    """One CustomJob of the run, as ``attempts/0001.json`` has it."""

    attempt: int
    region: str
    endpoint: str
    job: str | None = None  # projects/P/locations/L/customJobs/ID
    state: str = SUBMITTING
    reason: str = ""
    submitted: float | None = None  # Unix seconds
    ended: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing of this attempt can still run."""
        return self.state in ENDED


@dataclass(frozen=True)
class Submit:
    """Send the CustomJob of attempt ``attempt``."""

    attempt: int


@dataclass(frozen=True)
class Watch:
    """Look again later."""


@dataclass(frozen=True)
class Cancel:
    """Cancel the attempt's CustomJob."""


@dataclass(frozen=True)
class End:
    """Write how the run ended."""

    state: OutcomeState
    reason: str


@dataclass(frozen=True)
class Done:
    """Nothing is left to do."""


Action = Submit | Watch | Cancel | End | Done


def decide(
    attempt: Attempt | None,
    outcome: dict[str, Any] | None,
    *,
    cancel_sent: bool,
    since_outcome: float,
) -> Action:
    """Returns what to do next; see the table above.

    Args:
        attempt: the last attempt.
        outcome: outcome.json.
        cancel_sent: whether the attempt's CustomJob was asked to end.
        since_outcome: seconds since the outcome was first seen.
    """
    if outcome is None:
        if attempt is None:
            return Submit(1)
        return _outcome_of(attempt) if attempt.over else Watch()
    if attempt is None or attempt.over:
        return Done()
    overdue = outcome.get("state") == "cancelled" or since_outcome >= GRACE
    return Cancel() if overdue and not cancel_sent else Watch()


def _outcome_of(attempt: Attempt) -> End:
    if attempt.state == "SUCCEEDED":
        return End("succeeded", "the CustomJob succeeded")
    if attempt.state == "CANCELLED":
        return End("cancelled", "the CustomJob was cancelled")
    return End("failed", attempt.reason or f"the CustomJob ended {attempt.state}")


class JobsApi(Protocol):
    """What the loop needs of the API; ``launcher.vertex.Jobs`` is one."""

    region: str
    endpoint: str

    def submit(self, request: CustomJob) -> JobState:
        """Creates a CustomJob."""

    def get(self, name: str) -> JobState:
        """Returns a CustomJob's state."""

    def cancel(self, name: str) -> None:
        """Asks for a CustomJob's end."""


class Supervisor:
    """Carries out what ``decide`` says, until the run is done.

    Args:
        run_dir: the run; run.json is there already.
        api: where CustomJobs are sent.
        request: makes the CustomJob of an attempt from its number.
        poll: seconds between two looks.
        patience: seconds without an answer after which the attempt counts as lost; may be
            changed while it runs.
        clock: returns Unix seconds.
        sleep: waits for so many seconds, or less.
        listener: is told of each event that this writes; see EventWriter.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        api: JobsApi,
        request: Callable[[int], CustomJob],
        *,
        poll: float,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
        listener: Callable[[Event], object] = lambda event: None,
    ) -> None:
        self._run_dir = run_dir
        self._api = api
        self._request = request
        self._poll = poll
        self.patience = patience
        self._clock = clock
        self._sleep = sleep
        self._events = EventWriter(run_dir, "launcher", clock, listener)
        self._attempt: Attempt | None = None
        self._cancel_sent = False
        self._answered = clock()

    def run(self) -> dict[str, Any]:
        """Sees the run through. Returns outcome.json as it counts."""
        outcome_seen: float | None = None
        while True:
            outcome = self._run_dir.outcome()
            if outcome is not None and outcome_seen is None:
                outcome_seen = self._clock()
            action = decide(
                self._attempt,
                outcome,
                cancel_sent=self._cancel_sent,
                since_outcome=0.0 if outcome_seen is None else self._clock() - outcome_seen,
            )
            if isinstance(action, Done):
                assert outcome is not None
                self._events.flush()
                return outcome
            self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        if isinstance(action, Submit):
            self._submit(action.attempt)
        elif isinstance(action, End):
            end_run(self._run_dir, self._events, action.state, action.reason)
        elif isinstance(action, Cancel):
            self._cancel()
        else:
            self._sleep(self._poll)
            self._look()

    def _submit(self, number: int) -> None:
        # On record before it is sent: after a crash in between, the label finds the job.
        self._record(Attempt(number, self._api.region, self._api.endpoint))
        try:
            job = self._api.submit(self._request(number))
        except ApiError as error:
            self._ended(REFUSED, str(error))
            return
        assert self._attempt
        self._answered = self._clock()
        self._record(replace(self._attempt, job=job.name, state=job.state, submitted=self._clock()))
        self._events.emit(
            "attempt_started", attempt=number, job=job.name, region=self._attempt.region
        )
        self._events.flush()

    def _look(self) -> None:
        assert self._attempt and self._attempt.job
        try:
            job = self._api.get(self._attempt.job)
        except ApiError as error:
            if not error.transient or self._clock() - self._answered > self.patience:
                self._ended(LOST, str(error))
            return
        self._answered = self._clock()
        if job.ended:
            self._ended(job.state, job.reason)
        elif job.state != self._attempt.state:
            self._record(replace(self._attempt, state=job.state))

    def _cancel(self) -> None:
        assert self._attempt and self._attempt.job
        try:
            self._api.cancel(self._attempt.job)
        except ApiError as error:
            # A job that has ended meanwhile cannot be cancelled: looking again tells.
            self._cancel_sent = not error.transient
            self._sleep(self._poll)
            self._look()
        else:
            self._cancel_sent = True

    def _ended(self, state: str, reason: str) -> None:
        assert self._attempt
        self._record(replace(self._attempt, state=state, reason=reason, ended=self._clock()))
        self._events.emit(
            "attempt_ended", attempt=self._attempt.attempt, state=state, reason=reason or None
        )
        self._events.flush()

    def _record(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._run_dir.write_json(f"{ATTEMPTS}/{attempt.attempt:04d}.json", asdict(attempt))


def end_run(
    run_dir: RunDirectory,
    events: EventWriter,
    state: Literal["succeeded", "failed", "cancelled"],
    reason: str,
) -> bool:
    """Ends the run unless it has ended. Returns whether this call did it."""
    if not run_dir.end(state, reason):
        return False
    events.emit("finished", state=state, reason=reason)
    events.flush()
    return True


def read_attempts(run_dir: RunDirectory) -> list[dict[str, Any]]:
    """Returns the attempts of a run in their order."""
    names = [name for name in run_dir.store.names(ATTEMPTS) if name.endswith(".json")]
    return [run_dir.read_json(f"{ATTEMPTS}/{name}") for name in names]
