"""What a launch in the background leaves behind when it does not get far."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher import home
from launcher.commands import foreground
from launcher.commands.foreground import launch_detached, local_replica
from launcher.home import RunError, launch_lock
from launcher.job.job import Job
from launcher.local.emulator import LocalError, Replicas
from launcher.status.status import read_status
from tests.launcher.recorded_run import PARENT, record_attempt, record_run

JOB = Job.model_validate({"name": "j", "task": "my.tasks:C", "pools": ["a2-highgpu-1g"]})


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_process_that_ends_at_once_has_failed_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "child_environment", lambda: {"PYTHONHOME": "/nowhere"})
    with pytest.raises(LocalError, match="Fatal Python error"):
        launch_detached(JOB, "local", "one")
    status = read_status(home.find("one"))
    assert status["state"] == "failed" and "Fatal Python error" in status["reason"]


def test_ctrl_c_meanwhile_cancels_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    children, interrupts = [], [KeyboardInterrupt]

    class Slow(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: Any) -> None:
            program = "import time; time.sleep(600)"
            super().__init__([sys.executable, "-c", program], **options)
            children.append(self)

        def poll(self) -> int | None:
            if interrupts:
                raise interrupts.pop()
            return super().poll()

    monkeypatch.setattr(subprocess, "Popen", Slow)
    with pytest.raises(KeyboardInterrupt):
        launch_detached(JOB, "local", "one")
    assert read_status(home.find("one"))["state"] == "cancelled"
    [child] = children
    assert child.wait(60) == -signal.SIGTERM
    assert not home.launch_lives("one")


def test_in_a_fleet_a_replica_is_one_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    monkeypatch.setattr(Replicas, "of_state", lambda state, job: found.append(job))
    directory = record_run("one", target="local", by=home.whoami(), fleet=2)
    (home.local_folder("one")).mkdir(parents=True, exist_ok=True)
    with launch_lock("one"):
        for number, state in enumerate(["FAILED", "RUNNING", "RUNNING"], start=1):
            record_attempt(directory, "x", number, state=state)
        with pytest.raises(RunError, match="write 2/workerpool1-0 or 3/workerpool1-0"):
            local_replica(directory, "workerpool1-0")
        with pytest.raises(RunError, match="has no replica 2/workerpool1-7"):
            local_replica(directory, "2/workerpool1-7")
        assert local_replica(directory, "2/workerpool1-0")[1] == "workerpool1-0"
    assert found == [f"{PARENT}/2"]
