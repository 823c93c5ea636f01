"""``swell cancel``: ends a run, whoever launched it and from wherever, and its CustomJobs with it.

The outcome is written first: from then on no agent goes on and no launch resubmits. A launch that
looks after the run on this machine does the rest. If there is none, its CustomJobs are cancelled
through the API, which works from any machine that can read the run directory; a local run's
emulator is stopped.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from launcher import home
from launcher.api.apierror import ApiError
from launcher.api.retry import BRIEF, Retries
from launcher.api.vertex import Jobs, JobState, jobs_of
from launcher.local.emulator import stop
from launcher.supervision import controllers
from launcher.supervision.attempt import Attempt, read_attempts
from launcher.supervision.attendance import read_attendants, who_is_here
from launcher.supervision.controllers import ControllerRecord, read_controllers
from launcher.supervision.ending import end_run
from launcher.supervision.verdict import verdict_of
from trainer.rundir import clock
from trainer.rundir.attempts import record_name
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter
from trainer.rundir.names import RUN
from trainer.rundir.usererror import Message, shown

LIMIT = 60.0  # seconds to wait until nothing of the run is left
JOB_POLL = 2.0
LAUNCH_POLL = 0.1
AT_ONCE = 8  # runs
NEVER = JobState("", "CANCELLED", "the CustomJob was never created")


def cancel_runs(directories: Sequence[RunDirectory]) -> Iterator[tuple[str, bool]]:
    """Ends runs, some at once. Yields for each, in order, what to tell and whether it is gone."""

    def cancel(directory: RunDirectory) -> tuple[str, bool]:
        try:
            return cancel_run(directory), True
        except (ApiError, OSError, ValueError) as error:
            if isinstance(error, ApiError):
                return shown(error), False
            return str(Message(home.UNREADABLE, f"{directory.url}: {error}")), False

    with ThreadPoolExecutor(AT_ONCE) as workers:
        yield from workers.map(cancel, directories)


def cancel_run(
    directory: RunDirectory,
    *,
    retries: Retries | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Ends a run and waits until it is gone, for a minute at most. Returns what to tell the user.

    A run that has ended is not ended again; but a CustomJob of it that still runs is cancelled.

    Args:
        directory: the run.
        retries: how what is transient is tried again.
        sleep: waits.

    Raises ApiError when a CustomJob cannot be cancelled; the run counts as cancelled then.
    """
    run = directory.read_json(RUN)  # of any format: what a newer Swell launched costs money, too
    run_id = home.id_of(run, directory)
    writer = EventWriter(directory, f"launcher-{secrets.token_hex(4)}")
    now_over = end_run(directory, writer, "cancelled", f"cancelled by {home.whoami()}")
    said = f"run {run_id} is cancelled"
    if not now_over:
        said = f"run {run_id} had ended before: {(directory.outcome() or {}).get('state')}"
    elif home.launch_lives(run_id):
        deadline = time.monotonic() + LIMIT
        while home.launch_lives(run_id):
            if time.monotonic() > deadline:
                return f"{said}; its launch is still stopping VMs"
            sleep(LAUNCH_POLL)
    # (A launch elsewhere, or a controller, cancels the job as well: no harm.)
    if run.get("target") != "vertex":
        _let_controllers_end(directory, sleep)
        if home.launched_here(run, directory) and not home.launch_lives(run_id):
            stop(home.local_folder(run_id))  # which a launch that was killed has left
            _write_down(directory, writer)
        return said
    try:
        jobs = _cancel_jobs(directory, run, writer, retries or Retries(BRIEF), sleep)
    except ApiError as error:
        raise ApiError(
            "SW3018",
            f"{said}, but its CustomJob may still run: {error} (then again: swell cancel {run_id})",
            transient=error.transient,
            kind=error.kind,
            code=error.code,
        ) from None
    return "\n".join([said, *jobs])


def _let_controllers_end(directory: RunDirectory, sleep: Callable[[float], object]) -> None:
    """Waits for controllers that look after the run: they cancel its jobs, and tell its webhook."""
    pause = LAUNCH_POLL if directory.store.is_local else JOB_POLL
    for _ in range(round(LIMIT / pause)):
        if not any(it.controller for it in who_is_here(read_attendants(directory), clock.now())):
            return
        sleep(pause)


def _write_down(directory: RunDirectory, writer: EventWriter) -> None:
    """Nothing of a local run is left, and nobody else will say so."""
    gone = JobState("", "CANCELLED", "its VMs were stopped: the run has ended")
    for attempt in _attempts(directory):
        if not attempt.over:
            _record(directory, attempt, replace(gone, name=attempt.job or ""), writer)
    for it in read_controllers(directory):
        if not it.over:
            _record_controller(directory, it, replace(gone, name=it.job or ""), writer)


def _attempts(directory: RunDirectory) -> list[Attempt]:
    return [Attempt.from_json(record) for record in read_attempts(directory)]


def _cancel_jobs(
    directory: RunDirectory,
    run: dict[str, Any],
    writer: EventWriter,
    retries: Retries,
    sleep: Callable[[float], object],
) -> list[str]:
    """Cancels what still runs, and brings the records up to date.

    All are asked to end before one is waited for, and though one cannot be: each costs money.
    Raises the first ApiError then.
    """
    project, run_id = str(run.get("spec", {}).get("project") or ""), str(run["id"])
    said: list[str] = []
    errors: list[ApiError] = []
    asked: list[tuple[Attempt, Jobs, JobState]] = []
    jobs: Sequence[JobState]
    for attempt in [it for it in _attempts(directory) if not it.over]:
        with _noted(errors):
            api = jobs_of(attempt.to_json(), project, retries)
            # Without a name: its launch ended between asking for it and noting that.
            jobs = [_seen(api, attempt.job)] if attempt.job else api.find(run_id, attempt.attempt)
            for job in jobs or [NEVER]:
                _ask_to_end(api, job)
                asked.append((attempt, api, job))
    for attempt, api, job in asked:
        with _noted(errors):
            ended = _awaited(api, job, sleep)
            if job is not NEVER:
                said.append(_told(job, ended, attempt.region))
            _record(directory, attempt, ended, writer)
    _let_controllers_end(directory, sleep)
    asked_too: list[tuple[ControllerRecord, Jobs, JobState]] = []
    for it in [it for it in read_controllers(directory) if not it.over]:
        with _noted(errors):
            api = jobs_of(it.to_json(), project, retries)
            jobs = [_seen(api, it.job)] if it.job else api.find_controller(run_id, it.number)
            for job in jobs or [NEVER]:
                if _ask_to_end(api, job):
                    said.append(f"controller {it.number} is asked to end")
                asked_too.append((it, api, job))
    for it, api, job in asked_too:
        with _noted(errors):
            _record_controller(directory, it, _awaited(api, job, sleep), writer)
    if errors:
        raise errors[0]
    return said


@contextmanager
def _noted(errors: list[ApiError]) -> Iterator[None]:
    """The block may fail, and what follows it is done all the same."""
    try:
        yield
    except ApiError as error:
        errors.append(error)


def _seen(api: Jobs, name: str) -> JobState:
    try:
        return api.get(name)
    except ApiError as error:
        if error.code != 404:
            raise
        return JobState(name, "CANCELLED", f"somebody has deleted it: {error}")


def _ask_to_end(api: Jobs, job: JobState) -> bool:
    """Returns whether it had to be."""
    if not job.ended:
        api.cancel(job.name)
    return not job.ended


def _awaited(api: Jobs, job: JobState, sleep: Callable[[float], object]) -> JobState:
    return job if job.ended else api.wait(job.name, poll=JOB_POLL, limit=LIMIT, sleep=sleep)


def _told(before: JobState, after: JobState, region: str) -> str:
    which = f"CustomJob {after.name.rpartition('/')[2]} in {region}"
    if before.ended:
        return f"{which} had ended: {before.state}"
    if after.ended:
        return f"{which} has ended: {after.state}"
    return f"{which} is asked to end; it is {after.state} still"


def _record(directory: RunDirectory, attempt: Attempt, job: JobState, writer: EventWriter) -> None:
    name = record_name(attempt.attempt)
    with suppress(OSError, ValueError):
        attempt = Attempt.from_json(directory.read_json(name))
    if attempt.over:  # who looks after the run has seen it meanwhile, and knows more of it
        return
    attempt = replace(attempt, job=job.name or None, state=job.state, reason=job.reason)
    if job.ended:
        attempt = replace(attempt, ended=clock.now())
        told = {"state": job.state, "verdict": verdict_of(attempt), "reason": job.reason or None}
        writer.emit("attempt_ended", attempt=attempt.attempt, **told)
    directory.write_json(name, attempt.to_json())
    writer.flush()


def _record_controller(
    directory: RunDirectory, it: ControllerRecord, job: JobState, writer: EventWriter
) -> None:
    name = controllers.record_name(it.number)
    with suppress(OSError, ValueError):
        it = ControllerRecord.from_json({**directory.read_json(name), "number": it.number})
    if it.over:  # it has said so itself
        return
    it = replace(it, job=job.name or None, state=job.state, reason=job.reason)
    if job.ended:
        it = replace(it, ended=clock.now())
        told = {"state": job.state, "reason": job.reason or None}
        writer.emit("controller_ended", controller=it.number, **told)
    directory.write_json(name, it.to_json())
    writer.flush()
