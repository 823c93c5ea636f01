"""``swell runs``: the runs that this machine knows, and those that the API knows.

``swell runs --json`` is a contract with other programs: a list, the newest last, of ::

    run, created     its id; when, in Unix seconds
    state            as in swell status
    step             steps completed; null when the run directory was not read, and for a script
                     that does not say
    target           local | vertex
    url              the run directory
    job              the resource name of its last CustomJob, of those that live if any does; null
                     without one
    attended         who looks after it, as in swell status; null when that is not known
    api_state        what the API says of that CustomJob; null when it was not asked or knows none
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher import home
from launcher.api.vertex import Jobs, JobState, runs_among
from launcher.run_states import State, info_of
from launcher.status.attended import name_of
from launcher.status.status import live_of, read_status
from launcher.views.output import print_wide
from trainer.rundir.directory import RunDirectory
from trainer.rundir.usererror import Message

READERS = 8  # run directories read at once; on an object store each is some requests
STATE_OF_JOB: dict[str, State] = {  # of a run of which only its CustomJob is known
    "QUEUED": "queued",
    "PENDING": "queued",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "CANCELLING": "cancelled",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
    "EXPIRED": "failed",
    "PARTIALLY_SUCCEEDED": "failed",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """Where what is known about one run comes from: its directory, or its CustomJob, or both."""

    created: float
    run_id: str
    target: str
    directory: RunDirectory | None
    job: JobState | None


def list_runs(
    apis: Sequence[Jobs],
    *,
    states: Collection[str] = (),
    target: str | None = None,
    name: str | None = None,
    since: float | None = None,
    regions: Collection[str] = (),
    limit: int | None = None,
    report: Callable[[str], None],
) -> list[Row]:
    """Returns the newest runs, the newest last.

    Args:
        apis: also list the runs that these know; for Vertex AI one per region.
        states: only runs in one of these states; all if empty.
        target: only runs on this target.
        name: only runs whose id this pattern of the shell matches, or begins.
        since: only runs made from then on, in Unix seconds.
        regions: only runs whose last CustomJob is in one of these; all if empty.
        limit: at most so many.
        report: called with a line about each run that cannot be read.

    Raises ApiError.
    """
    jobs = runs_among(job for api in apis for job in api.find())
    sources = [
        source
        for source in _sources(jobs, report)
        if (target is None or source.target == target)
        and (name is None or fnmatchcase(source.run_id, f"{name}*"))
        and (since is None or source.created >= since)
    ]
    sources.sort(key=lambda source: (source.created, source.run_id), reverse=True)
    wanted = (
        row
        for row in _rows(sources, report)
        if (not states or row["state"] in states)
        and (not regions or any(f"/locations/{one}/" in str(row["job"]) for one in regions))
    )
    return list(islice(wanted, limit))[::-1]


def _sources(jobs: dict[str, JobState], report: Callable[[str], None]) -> list[_Source]:
    def read(item: tuple[str, str]) -> _Source | None:
        run_id, url = item
        try:
            directory = home.open_directory(url)
            run = home.read_run(directory)
            created, target = float(run.get("created", 0.0)), str(run.get("target"))
        except (OSError, ValueError, TypeError, ImportError) as error:
            report(str(Message(home.UNREADABLE, f"{run_id}: cannot be read: {error}")))
            return None
        return _Source(created, run_id, target, directory, jobs.get(run_id))

    known = home.urls()
    with ThreadPoolExecutor(READERS) as readers:
        sources = [source for source in readers.map(read, known.items()) if source]
    return sources + [
        _Source(job.created, run_id, "vertex", None, job)
        for run_id, job in jobs.items()
        if run_id not in known
    ]


def _rows(sources: Sequence[_Source], report: Callable[[str], None]) -> Iterator[Row]:
    """Yields rows in order, a few run directories being read at once, and not many too many."""

    def read(source: _Source) -> Row | None:
        try:
            return _row(source)
        except (OSError, ValueError, ImportError) as error:
            said = f"{source.run_id}: cannot be read: {error}"
            report(str(Message(home.UNREADABLE, said)))
            return None

    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(sources), READERS):
            yield from filter(None, readers.map(read, sources[start : start + READERS]))


def _row(source: _Source) -> Row:
    job = source.job
    row: Row = {
        "run": source.run_id,
        "state": STATE_OF_JOB.get(job.state, "queued") if job else "",
        "step": None,
        "created": source.created,
        "target": source.target,
        "url": job.output if job else "",
        "job": job.name if job else None,
        "attended": None,
        "api_state": job.state if job else None,
    }
    if source.directory is None:
        return row
    status = read_status(source.directory, audited=False)
    attempts = status["attempts"]
    last = (live_of(attempts) or attempts or [{}])[-1]
    return row | {
        "state": status["state"],
        "step": None if status["steps_lost"] is None else status["step"],
        "url": source.directory.url,
        "job": last.get("job") or row["job"],
        "attended": status["attended"],
    }


def _attendants(row: Row) -> str:
    if info_of(row["state"]).ending or row["attended"] is None:
        return "-"
    return ", ".join(map(name_of, row["attended"])) or "nobody"


def print_runs(console: Console, rows: Sequence[Row], asked: bool) -> None:
    """Prints rows as a table; into a file or pipe without control codes, cuts and padding.

    Args:
        console: where to.
        rows: see the module.
        asked: whether an API was asked: then its word is shown as well.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    known = ("run", "state", "step", "target", "created", "looked after by")
    for name in (*known, *(["Vertex AI"] if asked else [])):
        table.add_column(name, justify="right" if name == "step" else "left", no_wrap=True)
    for row in rows:
        step = "-" if row["step"] is None else f"{row['step']:,}"
        created = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created"]))
        state = Text(row["state"], style=info_of(row["state"]).colour)
        api = [str(row["api_state"] or "-").lower()] if asked else []
        table.add_row(row["run"], state, step, row["target"], created, _attendants(row), *api)
    print_wide(console, table)
