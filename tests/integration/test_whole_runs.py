"""Runs that outlive their CustomJobs, against emulators whose markets come and go.

Most replicas run a small script in place of the trainer: it "trains" a step in a moment, keeps
its checkpoint in the run directory, and ends as it is told. Two runs have the real trainer.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.supervision.attempt import read_attempts
from tests.integration.command import LIMIT, Swell, until
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events

REPLICA = """
import os, signal, sys, time
from trainer.rundir.events import EventWriter
from trainer.rundir.directory import RunDirectory

total, fate = int(sys.argv[1]), sys.argv[2]
run = RunDirectory(os.environ["SWELL_RUN_DIR"])
attempt = int(os.environ["SWELL_ATTEMPT"])
kept = run.find_json("checkpoint.json")
step = kept["step"] if kept else 0
events = EventWriter(run, f"replica-{attempt}-{os.getpid()}")
events.emit("resumed", generation=attempt, world_size=1, cause="start", step=step, lost_steps=0)
while step < total and run.outcome() is None:
    if fate == "raise" and step >= 5:
        raise ZeroDivisionError("1/0")
    if fate == "abort" and step == 10 * attempt:
        os.abort()
    step += 1
    run.write_json("checkpoint.json", {"step": step, "attempt": attempt})
    events.emit("steps", generation=attempt, first=step, metrics={"loss": [1 / step]})
    events.flush()
    time.sleep(0.02)
run.end("succeeded", f"{step} steps")
"""


class WholeRuns(Swell):
    """The command, with jobs whose replicas run the script."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.script = folder / "replica.py"
        self.script.write_text(REPLICA)

    def job(
        self,
        capacity: dict[str, dict[str, int]],
        *,
        steps: int = 30,
        fate: str = "train",
        machine: str = "a2-highgpu-1g",
        **fields: Any,
    ) -> str:
        """Writes a job; ``capacity`` is that of its machine over time, by region."""
        entries = [{"machine": machine, "region": r, "vms": vms} for r, vms in capacity.items()]
        path = self.folder / "job.yaml"
        job = {
            "name": "job",
            "container": {"command": ["python", str(self.script), str(steps), fate]},
            "pools": [machine],
            "resubmit": {"pause": "200ms", "longest": "1s"},
            # A minute of the market in a second: a job that has no VM is given up after 0.6 s.
            "local": {
                "market": {"speed": 60, "retry": "6s", "notice": "none", "capacity": entries}
            },
            **fields,
        }
        path.write_text(yaml.safe_dump(job))
        return str(path)

    def attempts(self, run: str) -> list[dict[str, Any]]:
        return read_attempts(RunDirectory(str(self.run_dir(run))))


@pytest.fixture
def swell(tmp_path: Path) -> Iterator[WholeRuns]:
    swell = WholeRuns(tmp_path)
    yield swell
    swell.close()


DRY, ALWAYS = {"0s": 0}, {"0s": 9}


def test_a_stockout_in_one_region_and_then_the_next(swell: WholeRuns) -> None:
    # It has a machine for six seconds at first, and then never again.
    going = {"0s": 1, "120s": 0}
    job = swell.job({"us-central1": going}, steps=200, regions=["us-central1", "us-east1"])
    launch = swell("launch", job, "--run-id", "one")
    assert launch.returncode == 0, launch.stdout + launch.stderr
    first, second = swell.attempts("one")
    assert first["region"] == "us-central1" and "insufficient" in first["reason"]
    assert second["region"] == "us-east1" and second["state"] == "SUCCEEDED"
    assert 0 < first["step"] < 200
    resumed = [
        e["step"]
        for e in read_events(RunDirectory(str(swell.run_dir("one"))))
        if e["event"] == "resumed"
    ]
    assert resumed[-1] >= first["step"], "from the checkpoint"
    assert "no capacity in us-central1" in launch.stdout
    assert swell.nothing_is_left()


@pytest.mark.soak
def test_capacity_that_comes_and_goes_over_six_attempts(swell: WholeRuns) -> None:
    # In one region there is a machine for 2 s, then none for 3 s, and so on; elsewhere never.
    times = range(0, 1800, 300)
    vms = {f"{at + off}s": count for at in times for off, count in ((0, 1), (120, 0))}
    job = swell.job(
        {"us-central1": vms | {"1800s": 1}, "us-east1": DRY},
        steps=250,
        regions=["us-central1", "us-east1"],
    )
    launch = swell("launch", job, "--run-id", "one")
    assert launch.returncode == 0, launch.stdout + launch.stderr
    attempts = swell.attempts("one")
    assert len(attempts) >= 6
    steps = [attempt["step"] for attempt in attempts]
    assert steps == sorted(steps), "nothing is lost"
    assert {attempt["region"] for attempt in attempts} == {"us-central1", "us-east1"}
    assert steps[-1] == 250, "and all is done"
    # Its last attempt need not have succeeded: the machine may go once the run has ended.
    outcome = RunDirectory(str(swell.run_dir("one"))).outcome()
    assert outcome and outcome["state"] == "succeeded"


@pytest.mark.soak
def test_other_machines_where_those_are_never_to_be_had(swell: WholeRuns) -> None:
    job = swell.job(
        {"us-central1": DRY},
        machine="a3-highgpu-8g",
        regions=["us-central1"],
        pools=["a3-highgpu-8g"],
        fallback=[{"machine": "a2-ultragpu-8g"}],
    )
    assert swell("launch", job, "--run-id", "one").returncode == 0
    assert [attempt["choice"] for attempt in swell.attempts("one")] == [
        "1 x a3-highgpu-8g, spot, us-central1",
        "1 x a2-ultragpu-8g, spot, us-central1",
    ]


def test_what_is_queued_for_too_long_is_given_up(swell: WholeRuns) -> None:
    entries = [{"machine": "a2-highgpu-1g", "region": "us-central1", "vms": DRY}]
    job = swell.job(
        {},
        regions=["us-central1", "us-east1"],
        resubmit={"pause": "200ms", "longest": "1s", "patience": "2s"},
        local={"market": {"retry": "10min", "notice": "none", "capacity": entries}},
    )
    launch = swell("launch", job, "--run-id", "one")
    assert launch.returncode == 0, launch.stdout + launch.stderr
    first, second = swell.attempts("one")
    assert (first["region"], first["state"]) == ("us-central1", "CANCELLED")
    assert first["ended"] - first["submitted"] >= 2.0
    assert (second["region"], second["state"]) == ("us-east1", "SUCCEEDED")
    assert "attempt 1 is given up for another" in launch.stdout


def test_on_demand_when_there_has_been_no_spot_machine_for_a_while(swell: WholeRuns) -> None:
    job = swell.job(
        {"us-central1": DRY},
        regions=["us-central1"],
        fallback=[{"strategy": "standard", "after": "4s"}],
    )
    assert swell("launch", job, "--run-id", "one").returncode == 0
    attempts = swell.attempts("one")
    kinds = [attempt["choice"].split(", ")[1] for attempt in attempts]
    assert kinds == ["spot"] * (len(kinds) - 1) + ["standard"]
    created = json.loads((swell.run_dir("one") / "run.json").read_text())["created"]
    assert attempts[-1]["created"] - created >= 4.0


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"cost": "0.01 USD"}, "limits.cost: 0.01 USD are spent, by estimate"),
        pytest.param(
            {"time": "2s"}, "limits.time: the attempts have run for 2s", marks=pytest.mark.soak
        ),
    ],
)
def test_a_limit_is_reached(swell: WholeRuns, limits: dict[str, str], reason: str) -> None:
    job = swell.job({"us-central1": ALWAYS}, steps=100_000, regions=["us-central1"], limits=limits)
    prices = swell.home / "prices.yaml"
    prices.parent.mkdir()
    prices.write_text("a2-highgpu-1g: {spot: 18}\n")  # 0.01 USD every 2 s
    launch = swell("launch", job, "--run-id", "one")
    assert launch.returncode == 4, launch.stdout + launch.stderr
    status = swell.status("one")
    assert status["state"] == "limited"
    assert status["reason"] == reason
    assert 0.01 <= status["spent"]["usd"] < 0.1
    assert swell.nothing_is_left()


def test_an_error_of_the_user_is_tried_exactly_once(swell: WholeRuns) -> None:
    job = swell.job({"us-central1": ALWAYS}, fate="raise", regions=["us-central1", "us-east1"])
    launch = swell("launch", job, "--run-id", "one")
    assert launch.returncode == 1
    [attempt] = swell.attempts("one")
    assert "exited with status 1" in attempt["reason"]


def test_a_launch_that_was_killed_and_whose_vms_are_gone_is_attached_to(swell: WholeRuns) -> None:
    job = swell.job({}, steps=300)
    first = swell.start("launch", job, "--run-id", "one")
    for _ in range(3):
        known = len(swell.attempts("one")) if swell.run_dir("one").exists() else 0
        until(partial(_runs, swell, known))
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=LIMIT)
        assert swell("emulator", "stop", "one").returncode == 0
        first = swell.start("attach", "one")
    said, _ = first.communicate(timeout=LIMIT)
    assert first.returncode == 0, said
    attempts = swell.attempts("one")
    assert [attempt["state"] for attempt in attempts[:-1]] == ["FAILED"] * (len(attempts) - 1)
    assert attempts[-1]["state"] == "SUCCEEDED"
    steps = [attempt["step"] for attempt in attempts]
    assert steps == sorted(steps) and steps[0] > 0
    assert swell.nothing_is_left()


def _runs(swell: WholeRuns, known: int) -> bool:
    """Whether a further attempt has begun to train."""
    kept = RunDirectory(str(swell.run_dir("one"))).find_json("checkpoint.json")
    return kept is not None and kept["attempt"] > known - (known > 0) and kept["step"] > 10


def test_what_is_looked_after_is_not_attached_to(swell: WholeRuns) -> None:
    launch = swell.start("launch", swell.job({}, steps=100_000), "--run-id", "one")
    until(lambda: swell.run_dir("one").exists() and swell.attempts("one"))
    answer = swell("attach", "one")
    assert (answer.returncode, answer.stderr) == (
        2,
        "swell: one: is looked after already [SW2007]\n",
    )
    swell("cancel", "one")
    launch.communicate(timeout=LIMIT)


# --- with the real trainer -------------------------------------------------------------

DIGITS: dict[str, Any] = {
    "name": "digits",
    "task": "trainer.tasks.digits:Digits",
    "args": {"epochs": 8, "batch": 64, "width": 8, "dtype": "float64"},
    "pools": ["a2-highgpu-2g"],
    "regions": ["us-central1", "us-east1"],
    "elastic": {"min_workers": 1, "spares": 0, "suspicion": "5s"},
    "checkpoint": {"every": "20 steps"},
    "resubmit": {"pause": "200ms"},
    "audit": True,
}


def test_a_run_that_moves_goes_on_and_keeps_its_checkpoints_near(swell: WholeRuns) -> None:
    # The machine is taken for good at 60 steps: a stockout, after six tries.
    taken = [{"at": "60 steps", "vanish": "workerpool0-0"}]
    checkpoint = {**DIGITS["checkpoint"], "buckets": {"us-east1": "gs://east/runs"}}
    job = {**DIGITS, "output": "gs://central/runs", "checkpoint": checkpoint}
    path = swell.folder / "digits.yaml"
    market = {"retry": "500ms", "incidents": taken}
    path.write_text(yaml.safe_dump({**job, "local": {"market": market}}))
    launch = swell("launch", str(path), "--run-id", "one")
    assert launch.returncode == 0, launch.stdout + launch.stderr
    assert "traffic between regions" not in launch.stdout
    status = swell.status("one")
    regions = [attempt["region"] for attempt in status["attempts"]]
    assert regions == ["us-central1", "us-east1"]
    assert status["step"] == 8 * 23
    assert status["samples_repeated"] == status["samples_skipped"] == 0
    assert max(g["step"] for g in status["generations"] if g["step"] is not None) >= 40
    rows = json.loads(swell("checkpoints", "one", "--verify", "--json").stdout)
    assert all(row["valid"] for row in rows)
    near = {row["step"] for row in rows if row["url"].startswith("gs://east/runs/one/")}
    before = {row["step"] for row in rows if row["url"].startswith("gs://central/runs/one/")}
    assert len(near) + len(before) == len(rows)
    assert 40 <= max(before) <= 80 and max(near) == 8 * 23
    shown = swell("checkpoints", "one").stdout
    assert "gs://central/runs/one" in shown and "gs://east/runs/one" in shown
    assert swell("checkpoints", "one", "--export", str(path.with_suffix(".x"))).returncode == 0
    assert swell.nothing_is_left()


def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_of_its_last_step(
    swell: WholeRuns,
) -> None:
    path = swell.folder / "digits.yaml"
    args = {**DIGITS["args"], "epochs": 500}
    job = {**DIGITS, "checkpoint": {"every": "1h"}, "args": args}
    path.write_text(yaml.safe_dump(job))
    launch = swell.start("launch", str(path), "--run-id", "one")
    run = RunDirectory(str(swell.run_dir("one")))
    until(lambda: any(e["event"] == "steps" and e["first"] > 20 for e in read_events(run)))
    assert run.ask_to_stop("limited", "limits.cost: 5 USD are spent, by estimate")
    said, _ = launch.communicate(timeout=LIMIT)
    assert launch.returncode == 4, said
    status = swell.status("one")
    assert (status["state"], status["attempts"][-1]["state"]) == ("limited", "SUCCEEDED")
    assert status["reason"] == "limits.cost: 5 USD are spent, by estimate"
    rows = json.loads(swell("checkpoints", "one", "--verify", "--json").stdout)
    assert rows and rows[-1]["valid"] and rows[-1]["step"] == status["step"]
