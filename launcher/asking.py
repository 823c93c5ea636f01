"""``swell resize`` and ``swell move``: ask a fleet to be another while it trains.

What is asked is written into the run directory, and whoever looks after the run carries it out,
on whatever machine (trainer.rundir.wanted). Two who ask at the same time do not undo each other's:
each changes what the other has left.
"""

from __future__ import annotations

import secrets

from pydantic import ValidationError

from launcher import home
from launcher.draft import require_prices, ways_of_job
from launcher.job.fitness import without_network
from launcher.job.job import Job
from launcher.job.model import problems_in
from launcher.job.problem import Problem
from launcher.supervision.wanted import (
    IMPOSSIBLE,
    UNFIT,
    Change,
    WantedError,
    Ways,
    changed,
    launched,
    moved,
    unfit,
)
from launcher.words import count
from trainer.rundir import clock, formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter
from trainer.rundir.names import RUN
from trainer.rundir.wanted import Wanted, create_wanted, newest_wanted


def ask(directory: RunDirectory, change: Change) -> str:
    """Asks a run to be another. Returns what to tell the user.

    Raises RunError for a run that has ended, or cannot change, WantedError for what it cannot be,
    LaunchError where a limit of cost could not be kept, FormatError for another version's run, and
    OSError.
    """
    record = home.read_run(directory)
    run_id = home.id_of(record, directory)
    formats.require_usable(record, f"{directory.url}/{RUN}")
    job = home.job_of(record)
    if why := unfit(job, home.changes_worlds(record)):
        raise home.RunError(UNFIT, f"{run_id}: {why}")
    if outcome := directory.outcome():
        raise home.RunError(home.OVER, f"{run_id}: has ended: {outcome.get('state')}")
    at_first = launched(job, ways_of_job(job), float(record["created"]))
    while True:
        before = newest_wanted(directory, at_first) or at_first
        ways = ways_of_job(job, before), _ways(job, moved(before, change), run_id)
        if record.get("target") == "vertex":
            _require_network(ways[1], run_id)
        require_prices(job, [*ways[1].choices, *ways[1].anchors])
        wanted = changed(job, before, change, ways, home.whoami(), clock.now())
        if create_wanted(directory, wanted):
            break
    _emit(directory, wanted)
    return _told(run_id, wanted)


def _ways(job: Job, wanted: Wanted, run_id: str) -> Ways:
    try:
        return ways_of_job(job, wanted)
    except ValidationError as error:
        raise _impossible(run_id, problems_in(error)) from None


def _require_network(ways: Ways, run_id: str) -> None:
    """Jobs of other machines may need another way to each other than those of before."""
    if found := [it for choice in ways.choices for it in without_network(choice.job)]:
        raise _impossible(run_id, found)


def _impossible(run_id: str, problems: list[Problem]) -> WantedError:
    (path, _, what), *_ = problems
    return WantedError(IMPOSSIBLE, f"{run_id}: {'.'.join(map(str, path))}: {what}")


def _emit(directory: RunDirectory, wanted: Wanted) -> None:
    events = EventWriter(directory, f"launcher-{secrets.token_hex(4)}")
    events.emit(
        "wanted",
        version=wanted.version,
        jobs=wanted.jobs,
        region=wanted.region or None,
        machine=wanted.machine or None,
        strategy=wanted.strategy or None,
        by=wanted.by,
    )
    events.flush()


def _told(run_id: str, wanted: Wanted) -> str:
    asked = [count(wanted.jobs, "job"), wanted.region, wanted.machine, wanted.strategy]
    said = f"run {run_id}: wanted from now on: {', '.join(filter(None, asked))}"
    if home.launch_lives(run_id):
        return said
    return (
        f"{said}; no launch looks after it on this machine: unless one elsewhere does, "
        f"swell attach {run_id} sees to it"
    )
