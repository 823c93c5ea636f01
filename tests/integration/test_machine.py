"""What happens to the machine that a run was launched from: its clock, its sleep, its disk."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.disks import Disk, disk, with_disks
from tests.integration.clocks import MachinesClock
from tests.integration.command import LIMIT, SLOW, Progress, Swell, until
from trainer.rundir.directory import RunDirectory

HOUR = 3600.0
# Aborts when its attempt is to fail.
REPLICA = """
import os, time
from pathlib import Path
from trainer.rundir.directory import RunDirectory

run, attempt = Path(os.environ["SWELL_RUN_DIR"]), os.environ["SWELL_ATTEMPT"]
(run / f"up-{attempt}-{os.getpid()}").touch()
while RunDirectory(str(run)).outcome() is None:
    if (run / f"abort-{attempt}").exists():
        os.abort()
    time.sleep(0.05)
"""
LIMITS = "limits: {time: 30min}\nresubmit: {pause: 200ms, longest: 1s, patience: 30min}\n"
EPOCHS, STEPS_PER_EPOCH = 10, 23
DIGITS = f"""
name: digits
task: {SLOW}
args: {{epochs: {EPOCHS}, batch: 64, width: 8, dtype: float64}}
pools: [a2-highgpu-2g]
elastic: {{spares: 0, suspicion: 10s}}
checkpoint: {{every: 50 steps}}
audit: true
"""


class ClockedSwell(Swell):
    """The command, on a machine whose clock can be set.

    Attributes:
        clock: that.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clock = MachinesClock(self)

    def environment(self) -> dict[str, str]:
        env = super().environment()
        return {**env, "PYTHONPATH": self.clock.path(env["PYTHONPATH"])}

    def job(self, text: str) -> str:
        path = self.folder / "job.yaml"
        path.write_text(text)
        return str(path)


@pytest.fixture
def swell(tmp_path: Path) -> Iterator[ClockedSwell]:
    swell = ClockedSwell(tmp_path)
    yield swell
    swell.close()


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_a_clock_that_is_set_ends_no_run_and_holds_none_up(swell: ClockedSwell, by: float) -> None:
    """No limit is reached early, and nobody waits for an hour that has been lost."""
    script = swell.folder / "replica.py"
    script.write_text(REPLICA)
    command = json.dumps(["python", str(script)])
    job = f"name: job\ncontainer: {{command: {command}}}\npools: [a2-highgpu-1g]\n{LIMITS}"
    launch = swell.start("launch", swell.job(job), "--run-id", "one")
    run = swell.run_dir("one")

    def up(attempt: int, times: int = 1) -> bool:
        return len([*run.glob(f"up-{attempt}-*")]) >= times

    until(partial(up, 1))
    swell.clock.set(by)
    before = swell.vms("one")
    assert before
    os.kill(before["workerpool0-0"], signal.SIGKILL)
    until(partial(up, 1, times=2))  # the VM is started again
    (run / "abort-1").touch()
    until(partial(up, 2))  # the next attempt
    before = swell.vms("one")
    os.kill(swell.emulator("one"), signal.SIGKILL)
    until(lambda: swell.vms("one") == before)  # by an emulator that knows the new time alone
    RunDirectory(str(run)).end("succeeded", "training is complete")
    said, _ = launch.communicate(timeout=LIMIT)
    assert launch.returncode == 0, said
    status = swell.status("one")
    assert [one["state"] for one in status["attempts"]] == ["FAILED", "SUCCEEDED"]
    assert 0 <= status["spent"]["seconds"] < HOUR / 2
    assert swell.nothing_is_left()


@with_disks
def test_training_goes_on_whatever_happens_to_the_machine_that_launched_it(
    swell: ClockedSwell,
) -> None:
    """Its clock is set twice, it sleeps for an hour, and its disk is read-only for a while."""
    with disk(swell.folder / "disk", "size=64m") as mounted:
        told = f"the disk {mounted.path} is read-only: the run directory cannot be written"
        live_through_it(swell, mounted, told)
        status = swell.status("one")
        assert (status["state"], status["step"]) == ("succeeded", EPOCHS * STEPS_PER_EPOCH)
        assert [epoch["exactly_once"] for epoch in status["epochs"]] == [True] * EPOCHS
        assert (status["losses"], status["drains"], status["steps_lost"]) == (0, 0, 0)
        assert len(status["attempts"]) == 1
        assert swell.nothing_is_left()


def live_through_it(swell: ClockedSwell, mounted: Disk, told: str) -> None:
    """Trains with its run directory on that disk; it is read-only until the launch has told so."""
    job = swell.job(f"{DIGITS}output: {mounted.path}/runs\n")
    launch = swell.start("launch", job, "--run-id", "one")
    progress = Progress(RunDirectory(str(mounted.path / "runs" / "one")))

    def reached(step: int) -> bool:
        assert launch.poll() is None
        return progress.step >= step

    until(partial(reached, 20))
    swell.clock.set(HOUR)
    until(partial(reached, 60))
    asleep = [launch.pid, swell.emulator("one")]
    for process in asleep:
        os.kill(process, signal.SIGSTOP)
    until(partial(reached, 120))
    swell.clock.set(-HOUR, slept=HOUR)
    for process in asleep:
        os.kill(process, signal.SIGCONT)
    until(partial(mounted.remount, "ro"), every=0.01)
    assert launch.stdout is not None
    assert any(told in line for line in launch.stdout)
    until(partial(mounted.remount, "rw"))
    said, _ = launch.communicate(timeout=LIMIT)
    assert launch.returncode == 0, said
