"""Incidents of the Spot market: when what happens, as a pure decision; and once for real."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from launcher.emulator.market.incidents import Incident, Progress, due, from_file, needs_steps
from launcher.emulator.market.progress import StepReader
from launcher.job import marketfile
from launcher.job.durations import Steps
from tests.launcher.emulator.running import Emulator, pool, wait_for
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter

SECONDS = st.integers(0, 100).map(lambda seconds: timedelta(seconds=seconds))
MOMENTS = st.one_of(SECONDS, st.integers(0, 100).map(Steps))
INCIDENTS = st.builds(
    Incident,
    replica=st.sampled_from(["workerpool0-0", "workerpool1-0", "workerpool1-1"]),
    at=MOMENTS,
    notice=st.none() | SECONDS,
    back=st.none() | MOMENTS,
)
# What a poll sees: how much time passed, and how many steps were made, since the last.
POLLS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=30)


def reached(moment: Steps | timedelta, step: int, elapsed: float) -> bool:
    return step >= moment.count if isinstance(moment, Steps) else elapsed >= moment.total_seconds()


@given(st.lists(INCIDENTS, max_size=5), POLLS, st.floats(-1e6, 1e6))
def test_each_incident_strikes_once_in_time_and_is_over_once_in_time(
    market: list[Incident], polls: list[tuple[int, int]], start: float
) -> None:
    start = float(int(start))
    progress = [Progress()] * len(market)
    now, step = start, 0
    struck: dict[int, float] = {}
    back: set[int] = set()
    for seconds, steps in polls:
        now, step = now + seconds, step + steps
        for action in due(market, progress, now=now, running_since=start, step=step):
            incident = market[action.incident]
            if action.kind == "strike":
                assert action.incident not in struck
                assert reached(incident.at, step, now - start)
                struck[action.incident] = now
                progress[action.incident] = Progress(struck=now)
            else:
                assert action.incident in struck and action.incident not in back
                assert incident.back is not None
                assert reached(incident.back, step, now - struck[action.incident])
                back.add(action.incident)
                progress[action.incident] = Progress(struck=now, over=True)
        # Nothing that was due at this poll is forgotten.
        for number, incident in enumerate(market):
            assert (number in struck) == reached(incident.at, step, now - start)


@given(st.lists(INCIDENTS, max_size=5), st.integers(0, 100), st.integers(0, 100))
def test_steps_are_read_only_while_something_waits_for_them(
    market: list[Incident], now: int, step: int
) -> None:
    progress = [Progress()] * len(market)
    if not needs_steps(market, progress):
        without, having = (
            due(market, progress, now=now, running_since=0, step=steps) for steps in (0, step)
        )
        assert without == having


def test_incidents_as_they_are_written_in_a_file() -> None:
    written = TypeAdapter(list[marketfile.Incident]).validate_python(
        [
            {"at": "150 steps", "preempt": "workerpool1-0", "notice": "5s", "back": "350 steps"},
            {"at": "20s", "vanish": "workerpool1-2", "back": "10s"},
            {"at": "1min", "preempt": "workerpool0-0", "vanish": None},
        ]
    )
    assert from_file(written) == [
        Incident("workerpool1-0", Steps(150), timedelta(seconds=5), Steps(350)),
        Incident("workerpool1-2", timedelta(seconds=20), None, timedelta(seconds=10)),
        Incident("workerpool0-0", timedelta(minutes=1), timedelta(seconds=30), None),
    ]


def test_completed_steps_are_read_from_the_run_directory(tmp_path: Path) -> None:
    steps = StepReader(str(tmp_path))
    assert steps.completed() == 0
    writer = EventWriter(RunDirectory(str(tmp_path)), "leader")
    writer.emit("resumed", generation=1, step=7)
    writer.emit("steps", generation=1, first=1, metrics={"loss": [3.0, 2.0], "speed": [1.0]})
    writer.emit("steps", generation=1, first="5", metrics={"loss": [1.0]})
    writer.emit("steps", generation=1, first=5, metrics={})
    writer.flush()
    assert steps.completed() == 2
    writer.emit("steps", generation=2, first=3, metrics={"loss": [1.0] * 4})
    writer.flush()
    assert steps.completed() == 6
    assert steps.completed() == 6
    assert StepReader(None).completed() == 0


def test_the_market_takes_vms_and_gives_them_back_as_the_run_goes_on(
    start: Callable[..., Emulator], tmp_path: Path
) -> None:
    market = tmp_path / "market.json"
    market.write_text(
        json.dumps(
            [
                {
                    "at": "10 steps",
                    "preempt": "workerpool1-0",
                    "notice": "1h",
                    "back": "30 steps",
                },
                {"at": "20 steps", "vanish": "workerpool1-1", "back": "100ms"},
                {"at": "0s", "vanish": "workerpool1-2"},
                {"at": "0s", "vanish": "workerpool3-9"},
            ]
        )
    )
    emulator = start("--market", str(market))
    run = tmp_path / "run"
    forever = "echo $$$$; exec sleep 1000"  # $$ in a job's arguments is one $
    spec = {"baseOutputDirectory": {"outputUriPrefix": str(run)}}
    job = emulator.create(pool(forever), pool(forever, 3), **spec)
    emulator.until_replica(job, "workerpool1-2", "VANISHED")
    assert emulator.replicas(job)["workerpool1-0"]["state"] == "RUNNING"

    writer = EventWriter(RunDirectory(str(run)), "leader")

    def complete(first: int, last: int) -> None:
        writer.emit("steps", first=first, metrics={"loss": [0.0] * (last - first + 1)})
        writer.flush()

    def starts(name: str) -> int:
        return len(set(emulator.output(job, name)))

    complete(1, 10)
    emulator.until_replica(job, "workerpool1-0", "PREEMPTED")
    assert starts("workerpool1-1") == 1
    complete(11, 20)
    wait_for(lambda: starts("workerpool1-1"), lambda count: count == 2)
    assert emulator.replicas(job)["workerpool1-0"]["state"] == "PREEMPTED"
    complete(21, 30)
    emulator.until_replica(job, "workerpool1-0", "RUNNING")
    emulator.http.delete(job)

    # The same run's next job meets only what has not happened yet: here, nothing.
    job = emulator.create(pool(forever), pool("exit 0", 3), **spec)
    for name in ("workerpool1-0", "workerpool1-1", "workerpool1-2"):
        emulator.until_replica(job, name, "EXITED")
