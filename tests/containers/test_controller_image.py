"""The controller's image, really built, which looks after a run as a container of the emulator.

``make test-container`` builds the image and runs this; without one it is skipped. The replicas are
of the same image, and run a script in place of the trainer: no torch is needed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import home
from launcher.supervision.attendance import read_attendants
from tests.integration.command import LIMIT, Swell

IMAGE = os.environ.get("SWELL_TEST_CONTROLLER_IMAGE", "")

pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="no image to test: make test-container builds one"),
    pytest.mark.timeout(LIMIT),
]

REPLICA = """
import os, time
from trainer.rundir.directory import RunDirectory
run = RunDirectory(os.environ["SWELL_RUN_DIR"])
print("up", flush=True)
while not run.store.names("attendants"):
    time.sleep(0.2)
run.end("succeeded", "training is complete")
"""


@pytest.fixture
def swell(tmp_path: Path) -> Iterator[Swell]:
    swell = Swell(tmp_path)
    yield swell
    swell.close()


def run_in_image(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    alone = ("--rm", "--network", "none", "--entrypoint", program)
    return subprocess.run(
        ["podman", "run", *alone, IMAGE, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def test_it_has_what_it_needs_and_nothing_that_trains() -> None:
    answer = run_in_image("python", "-m", "launcher.controller", "--check")
    assert answer.returncode == 0, answer.stderr
    assert "can look after runs" in answer.stdout
    for package in ("torch", "horovod"):
        assert run_in_image("python", "-c", f"import {package}").returncode != 0, package


def test_it_is_small_and_not_root() -> None:
    [found] = json.loads(
        subprocess.run(
            ["podman", "image", "inspect", IMAGE], capture_output=True, text=True, check=True
        ).stdout
    )
    assert found["Size"] < 500e6
    assert found["Config"]["User"] == "10001:10001"
    assert found["Config"]["Labels"]["swell.variant"] == "controller"


def test_it_looks_after_a_run(swell: Swell, monkeypatch: pytest.MonkeyPatch) -> None:
    path = swell.folder / "job.yaml"
    path.write_text(
        "name: boxed\n"
        f"container: {{image: {IMAGE}, command: [python, -c, {json.dumps(REPLICA)}]}}\n"
        "pools: [a2-highgpu-1g]\n"
        f"controller: {{image: {IMAGE}}}\n"
        "local: {vm: container, memory: 512MiB}\n"
    )
    answer = swell("launch", str(path), "--run-id", "boxed", "--detach")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    followed = swell("attach", "boxed")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    status = swell.status("boxed")
    assert [it["state"] for it in status["attempts"]] == ["SUCCEEDED"]
    assert [it["state"] for it in status["controllers"]] == ["SUCCEEDED"]
    monkeypatch.setenv("SWELL_HOME", str(swell.home))
    attendants = read_attendants(home.find("boxed")).values()
    assert [it.controller for it in attendants if it.controller] == [1]
    assert swell.nothing_is_left()
