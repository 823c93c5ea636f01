"""``swell logs``: what a run's replicas printed, wherever that is kept.

A local run's lines are in files on this machine, while its emulator lives and afterwards; they are
read there, and not through the emulator's entries:list: following costs only what is new. The
lines of a run on Vertex AI are in Cloud Logging. Both are printed by the same few lines of code.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from launcher import home
from launcher.api.retry import BRIEF, Retries
from launcher.api.transport import is_emulator
from launcher.api.vertex import endpoint_of, is_job, jobs_of
from launcher.local.emulator import goes_on
from launcher.logs.cloudlog import CloudLog
from launcher.logs.logline import SECOND, Line, format_time, parse_time, shown
from launcher.logs.selection import ALL, Selection
from launcher.supervision.attempt import read_attempts
from launcher.terminal import unguarded
from trainer.rundir.directory import RunDirectory

LOCAL_POLL = 0.25  # seconds
# Cloud Logging allows 60 reads a minute and project.
CLOUD_POLL, CLOUD_LINGER = 5.0, 15.0
EMULATOR_POLL, EMULATOR_LINGER = 0.5, 1.0
ASK_EVERY = 30.0  # seconds between two questions to the API whether a job still runs


class Log(Protocol):
    """The lines of a run."""

    poll: float  # seconds between two looks

    def read_new(self) -> Iterable[Line]:
        """Returns the lines not returned before, by time."""

    def lives(self) -> bool:
        """Whether further lines may come."""


class LocalLog:
    """The lines of a local run, from its emulator's files.

    Args:
        run_id: the run.
        replica: only this one's lines, or None for everybody's.
        since: only lines from this time on, in nanoseconds; None for all.
        attempt_of: the number of a CustomJob's attempt, from its id; None where one job's replicas
            need not be told from another's.
    """

    poll = LOCAL_POLL

    def __init__(
        self,
        run_id: str,
        replica: str | None = None,
        since: int | None = None,
        attempt_of: Callable[[str], int | None] = lambda job: None,
    ) -> None:
        self._run_id = run_id
        self._folder = home.local_folder(run_id) / "logs"
        self._replica = replica
        self._attempt_of = attempt_of
        self._since = since
        self._offsets: dict[Path, int] = {}

    def read_new(self) -> list[Line]:
        """See Log."""
        lines: list[Line] = []
        for path in sorted(self._folder.glob("*/*.jsonl")):
            attempt = self._attempt_of(path.parent.name)
            name = path.stem if attempt is None else f"{attempt}/{path.stem}"
            if self._replica in (None, path.stem, name):
                lines.extend(self._new_lines(path, name))
        return sorted(lines, key=lambda line: line.time)

    def lives(self) -> bool:
        """See Log."""
        return home.launch_lives(self._run_id) or goes_on(home.local_folder(self._run_id))

    def _new_lines(self, path: Path, replica: str) -> Iterator[Line]:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            for written in file:
                if not written.endswith(b"\n"):  # still being written
                    break
                self._offsets[path] = self._offsets.get(path, 0) + len(written)
                line = local_line(written, replica)
                if line and (self._since is None or line.time >= self._since):
                    yield line


def local_line(written: bytes, replica: str) -> Line | None:
    """Returns the line that an emulator has written; None for what it has not."""
    try:
        entry = json.loads(written)
        severity, message = str(entry["severity"]), str(entry["message"])
        return Line(parse_time(str(entry["timestamp"])), replica, severity, message)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class VertexLog:
    """The lines of a run on Vertex AI: of all its CustomJobs. In a fleet each says of which it is.

    A run has ended when its outcome says so. Its launch may be gone before that, so now and then
    the API is asked as well. Then some more looks are taken, for lines that come late.

    Args:
        directory: the run.
        replica: only this one's lines, or None for everybody's.
        since: only lines from this time on, in nanoseconds; None for all.
        retries: how what is transient is tried again.
        clock: Unix seconds.
    """

    def __init__(
        self,
        directory: RunDirectory,
        replica: str | None = None,
        since: int | None = None,
        *,
        retries: Retries | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        run = home.read_run(directory)
        self._project = str(run.get("spec", {}).get("project") or "")
        self._is_fleet = home.is_fleet(run)
        self._of, self._replica = of_attempt(replica)
        self._since = since
        self._retries = retries
        self._clock = clock
        self._logs: dict[str, CloudLog] = {}
        self._complete: set[str] = set()  # jobs of which no further line can come
        self._asked: dict[str, float] = {}  # when the API was asked about a job
        self._over_by_api: set[str] = set()  # jobs
        self._ended_at: float | None = None
        self.poll, self._linger = CLOUD_POLL, CLOUD_LINGER
        if any(is_emulator(str(attempt["endpoint"])) for attempt in self._attempts()):
            self.poll, self._linger = EMULATOR_POLL, EMULATOR_LINGER

    def read_new(self) -> Iterator[Line]:
        """See Log. Raises ApiError."""
        now = self._clock()
        for attempt in self._attempts():
            job, number = str(attempt["job"]), int(attempt["attempt"])
            if job in self._complete or self._of not in (None, number):
                continue
            if job not in self._logs:
                self._logs[job] = CloudLog(
                    job,
                    endpoint_of(attempt),
                    replica=self._replica,
                    since=self._since,
                    retries=self._retries,
                )
            for line in self._logs[job].read_new():
                named = f"{number}/{line.replica}" if self._is_fleet else line.replica
                yield replace(line, replica=named)
            ended = attempt.get("ended")
            if isinstance(ended, int | float) and now - ended > self._linger:
                self._complete.add(job)

    def lives(self) -> bool:
        """See Log. Raises ApiError."""
        if not self._over():
            self._ended_at = None
        elif self._ended_at is None:
            self._ended_at = self._clock()
        return self._ended_at is None or self._clock() - self._ended_at < self._linger

    def _over(self) -> bool:
        if self._directory.outcome() is not None:
            return True
        attempts = self._attempts()
        return bool(attempts) and all([self._has_ended(attempt) for attempt in attempts])

    def _has_ended(self, attempt: dict[str, Any]) -> bool:
        """Whether a CustomJob is over; of one that is not on record as that, the API is asked."""
        job, now = str(attempt["job"]), self._clock()
        if attempt.get("ended") or job in self._over_by_api:
            return True
        asked = self._asked.setdefault(job, now)  # it was alive when it was submitted
        if now - asked >= ASK_EVERY:
            self._asked[job] = now
            if jobs_of(attempt, self._project, self._retries).get(job).ended:
                self._over_by_api.add(job)
        return job in self._over_by_api

    def _attempts(self) -> list[dict[str, Any]]:
        attempts = read_attempts(self._directory)
        return [one for one in attempts if is_job(str(one.get("job") or ""))]


def of_attempt(replica: str | None) -> tuple[int | None, str | None]:
    """Returns the attempt that a replica's name speaks of, if it does, and its name there."""
    attempt, _, name = (replica or "").rpartition("/")
    return int(attempt) if attempt.isdecimal() else None, name or None


def open_log(
    directory: RunDirectory, replica: str | None, since: int | None, follow: bool = False
) -> Log:
    """Returns the log of a run.

    Args:
        directory: the run.
        replica: only this one's lines, or None for everybody's.
        since: only lines from this time on, in nanoseconds; None for all.
        follow: whether it is to be followed: then an API that is silent is waited for longer.

    Raises RunError for a replica that it does not have, for a local run of another machine, and
    for one that has no VMs yet.
    """
    run = home.read_run(directory)
    run_id = str(run["id"])
    if replica is not None and not (replica == "service" and run.get("target") == "vertex"):
        home.require_replica(run, replica)
    if run.get("target") == "vertex":
        retries = Retries() if follow else Retries(BRIEF)
        return VertexLog(directory, replica, since, retries=retries)
    if not home.launched_here(run, directory):
        raise home.RunError(
            home.ELSEWHERE, f"{run_id}: was launched by {run.get('by')}; its logs are there"
        )
    return LocalLog(run_id, replica, since, _attempts_of(run, directory))


def _attempts_of(run: dict[str, Any], directory: RunDirectory) -> Callable[[str], int | None]:
    """Returns what tells the number of an attempt by its CustomJob's id, in a fleet."""
    if not home.is_fleet(run):
        return lambda job: None
    known: dict[str, int] = {}

    def attempt_of(job: str) -> int | None:
        if job not in known:
            records = ((str(it["job"] or ""), it["attempt"]) for it in read_attempts(directory))
            known.update((name.rpartition("/")[2], number) for name, number in records if name)
        return known.get(job)

    return attempt_of


def print_logs(log: Log, follow: bool, as_json: bool, selection: Selection = ALL) -> None:
    """Prints lines in order of time, as far as they are known by then.

    Args:
        log: the lines.
        follow: go on until no further ones can come.
        as_json: one object a line: ``{"time", "replica", "severity", "message"}``.
        selection: which of them.
    """
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    out = unguarded(sys.stdout) if colours else sys.stdout  # a line has no other codes left
    while True:
        lives = follow and log.lives()  # before the look: what is written last is then seen, too
        for line in filter(selection.takes, log.read_new()):
            print(_as_json(line) if as_json else shown(line, colours), file=out, flush=follow)
        if not lives:
            return
        time.sleep(log.poll)


def since_time(ago: float, now: float) -> int:
    """Returns the time ``ago`` seconds before ``now``, in nanoseconds."""
    return int((now - ago) * SECOND)


def _as_json(line: Line) -> str:
    at = format_time(line.time)
    return json.dumps(
        {"time": at, "replica": line.replica, "severity": line.severity, "message": line.message}
    )
