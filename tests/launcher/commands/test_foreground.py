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
from launcher.commands.foreground import launch_detached
from launcher.job.job import Job
from launcher.local.emulator import LocalError
from launcher.status.status import read_status

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
