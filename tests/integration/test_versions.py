"""Runs that begin from checkpoints of other versions, for real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.command import Swell
from trainer.checkpoints.manifest import signed
from trainer.rundir.directory import RunDirectory
from trainer.rundir.formats import version

OLD = Path(__file__).parents[1] / "data/runs/format-1"
CHECKPOINT = "checkpoints/step-000000080"  # of 92
JOB = """
name: digits
task: trainer.tasks.digits:Digits
args: {epochs: 4, batch: 64, width: 8}
pools: [{machine: a2-highgpu-1g}]
elastic: {spares: 0}
"""


@pytest.fixture
def job(swell: Swell) -> str:
    path = swell.folder / "job.yaml"
    path.write_text(JOB)
    return str(path)


def test_a_run_goes_on_where_one_of_before_formats_was(swell: Swell, job: str) -> None:
    launch = swell("launch", job, "--run-id", "fork", "--from", f"{OLD}/{CHECKPOINT}")
    assert launch.returncode == 0, launch.stdout + launch.stderr
    status = swell.status("fork")
    assert (status["generations"][0]["step"], status["step"]) == (80, 92)


def test_an_image_that_is_too_old_for_a_checkpoint_says_so_to_whoever_launched(
    swell: Swell, job: str, tmp_path: Path
) -> None:
    shutil.copytree(OLD, tmp_path / "newer")
    there = RunDirectory(str(tmp_path / "newer"))
    manifest = json.loads(there.store.read(f"{CHECKPOINT}/manifest.json"))
    rest = {key: value for key, value in manifest.items() if key not in ("owner", "sha256")}
    there.write_json(f"{CHECKPOINT}/manifest.json", signed({**rest, "format": 5, "swell": "7.1"}))
    launch = swell("launch", job, "--run-id", "fork", "--from", f"{there.url}/{CHECKPOINT}")
    assert launch.returncode == 1
    status = swell.status("fork")
    assert status["state"] == "failed"
    assert status["reason"].endswith(
        f"\n{CHECKPOINT}/manifest.json is of format 5, written by Swell 7.1; "
        f"Swell {version()} knows up to 4: update the image (container.image) [SW2026]"
    )
    assert "Traceback" not in launch.stdout + launch.stderr
