"""Who is at fault, on three machines: what each fault costs, and what the user reads."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.command import Swell, until
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events

SCRIPTS = Path(__file__).parent / "faulty"


THREE = "[a2-highgpu-1g, {machine: a2-highgpu-1g, replicas: 2}]"


def job(swell: Swell, script: str, *args: str, pools: str = THREE) -> str:
    path = swell.folder / "job.yaml"
    path.write_text(
        f"name: faults\nscript: {SCRIPTS / script}\nargs: {list(args)}\n"
        f"pools: {pools}\n"
        "elastic: {spares: 0, suspicion: 5s}\n"
    )
    return str(path)


def test_faults_cost_their_machine_alone_and_no_step(swell: Swell) -> None:
    """Out of memory, a worker that dies in a collective of its own, broken GPUs, an exit at load.

    Two GPUs break in the same step; a third one is busy before anybody trains.
    """
    marks = swell.folder / "marks"
    marks.mkdir()
    launch = swell("launch", job(swell, "ride.py", str(marks)), "--run-id", "one")
    assert launch.returncode == 0, launch.stdout
    events = read_events(RunDirectory(str(swell.run_dir("one"))))
    bad = [one for one in events if one["event"] == "fault"]
    then = {
        name: [(one["whose"], one["then"]) for one in bad if one["member"] == name]
        for name in ("workerpool0-0", "workerpool1-0", "workerpool1-1")
    }
    assert then == {
        "workerpool0-0": [("machine", "process")],
        "workerpool1-0": [("machine", "process"), ("machine", "replica"), ("newcomer", "out")],
        "workerpool1-1": [("machine", "process"), ("machine", "replica")],
    }
    for line in (
        "is out of memory: parts have at most 4 samples from now on",
        "workerpool1-0 has failed (RuntimeError: CUDA error: uncorrectable ECC error encountered): "
        "the machine is at fault; its replica is started anew",
        "workerpool0-0 has failed (RuntimeError: DataLoader worker (pid 4711) is killed by signal: "
        "Killed.): the machine is at fault; another process takes its place",
        "workerpool1-1 has failed (RuntimeError: CUDA error: all CUDA-capable devices are busy or "
        "unavailable): the machine is at fault; another process takes its place",
        "the run is complete at step",
    ):
        assert line in launch.stdout
    assert re.search(
        r"workerpool1-0 has failed \(sys\.exit\('/data is not mounted here'\) at \S*ride\.py:\d+ "
        r"ends a .*…\): it could not begin; the run goes on without it",
        launch.stdout,
    )
    status = swell.status("one")
    assert (status["state"], status["steps_lost"]) == ("succeeded", 0)
    # The third is out for good; the second may still be on its way back when the run ends.
    assert status["metrics"]["workers"] in (1.0, 2.0)
    assert sum(one["seconds"] for one in status["pauses"]) < events[-1]["time"] - events[0]["time"]
    until(swell.nothing_is_left)


def test_a_crash_at_one_sample_ends_the_run_with_the_samples(swell: Swell) -> None:
    launch = swell(
        "launch", job(swell, "dies_of_a_sample.py", pools="[a2-highgpu-2g]"), "--run-id", "one"
    )
    assert launch.returncode == 1, launch.stdout
    status = swell.status("one")
    assert status["state"] == "failed"
    told = status["reason"]
    assert told.startswith("step 15 has ended a worker's process 3 times, and no other had been")
    assert "a worker was killed by SIGSEGV, in rank " in told
    assert " 77, " in told and told.endswith(" [SW5005]")
    assert told in launch.stdout
    assert (status["step"], status["losses"]) == (14, 3)
    until(swell.nothing_is_left)


def test_a_plain_script_that_crashes_at_one_step_is_not_begun_for_ever(swell: Swell) -> None:
    """The other worker cannot go on without the one that crashes, and ends with it."""
    path = swell.folder / "job.yaml"
    script = Path(__file__).parent / "horovod_scripts" / "dies_at_a_step.py"
    path.write_text(
        f"name: plain\nscript: {script}\npools: [a2-highgpu-2g]\n"
        "elastic: {min_workers: 2, spares: 0}\n"
    )
    launch = swell("launch", str(path), "--run-id", "one")
    assert launch.returncode == 1, launch.stdout
    status = swell.status("one")
    assert status["reason"] == (
        "step 7, or what follows step 6, has ended a worker's process 3 times, and no other had "
        "been lost: a worker was killed by SIGSEGV, in rank 1 (workerpool0-0) [SW5005]"
    )
    assert 6 <= status["steps_lost"] <= 14, "six or seven, twice, as far as rank 0 has told"
    until(swell.nothing_is_left)
