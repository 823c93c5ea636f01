"""Checkpoints of real runs on gs://: total loss, and the commands that show them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher.buckets import LocalBuckets
from tests.integration.command import Swell, until
from trainer.checkpoints.manifest import committed_steps, read_manifest
from trainer.checkpoints.restore import Alone, load
from trainer.rundir import RunDirectory

JOB = """
name: digits
task: trainer.tasks.digits:Digits
args: {{epochs: 5, batch: 64, width: 8, dtype: float64}}
pools: [{{machine: a2-highgpu-1g}}, {{machine: a2-highgpu-1g}}]
elastic: {{spares: 0, suspicion: 5s}}
checkpoint: {{every: 10 steps, keep: 3}}
output: gs://a-bucket/runs
local: {{market: {market}}}
"""
STEPS = 5 * 23
REPLICAS = ("workerpool0-0", "workerpool1-0")


def launched(swell: Swell, run: str, market: list[dict[str, Any]] | None = None) -> RunDirectory:
    job = swell.folder / f"{run}.yaml"
    job.write_text(JOB.format(market=json.dumps(market or [])))
    launch = swell("launch", str(job), "--run-id", run)
    assert launch.returncode == 0, launch.stdout + launch.stderr
    return RunDirectory(f"gs://a-bucket/runs/{run}", LocalBuckets(swell.home / "buckets"))


def weights(run_dir: RunDirectory, step: int) -> list[torch.Tensor]:
    tree = load(run_dir, step, lambda *a, **k: None, Alone(), torch.device("cpu"))
    assert tree is not None
    return [one for part in tree["parts"].values() for one in _tensors(part)]


def _tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for one in value.values() for tensor in _tensors(one)]
    return []


@dataclass
class Calm:
    """A run that nothing happened to."""

    swell: Swell
    run_dir: RunDirectory

    def ends_like(self, other: RunDirectory) -> bool:
        """Whether the last states are the same but for the order of additions."""
        pairs = zip(weights(self.run_dir, STEPS), weights(other, STEPS), strict=True)
        return all(torch.allclose(a.double(), b.double(), rtol=1e-6, atol=1e-9) for a, b in pairs)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calm]:
    swell = Swell(tmp_path_factory.mktemp("calm"))
    yield Calm(swell, launched(swell, "calm"))
    swell.close()


def test_a_run_on_gs_that_lost_everything_ends_as_if_nothing_had_happened(
    calm: Calm, swell: Swell
) -> None:
    """All VMs are cut at once, at a moment of the test's choice; capacity comes back later."""
    moment = random.randrange(25, 70)
    print(f"lost after step {moment}")
    market = [{"at": f"{moment} steps", "vanish": one, "back": "2s"} for one in REPLICAS]
    stormy = launched(swell, "stormy", market)
    status = swell.status("stormy")
    assert status["step"] == STEPS
    resumed_at = status["generations"][1]["step"]
    assert resumed_at >= 10 and resumed_at % 10 == 0, "from a checkpoint"
    assert status["steps_lost"] < 10 + 10, "the interval, and what was done while it was written"
    assert status["checkpoint"]["step"] == STEPS and status["checkpoint"]["failed"] == 0
    assert calm.ends_like(stormy)
    about = read_manifest(stormy, STEPS).about
    assert about["world_size"] == status["generations"][-1]["world_size"]
    assert about["global_batch"] == 64 and about["leader_epoch"] >= 1
    until(swell.nothing_is_left)


def test_when_all_vms_get_notice_the_step_that_they_stopped_at_is_saved(
    calm: Calm, swell: Swell
) -> None:
    market = [{"at": "35 steps", "preempt": one, "notice": "15s", "back": "1s"} for one in REPLICAS]
    stormy = launched(swell, "stormy", market)
    status = swell.status("stormy")
    assert status["drains"] == 2 and status["steps_lost"] == 0
    assert status["generations"][1]["step"] >= 35
    assert calm.ends_like(stormy)
    until(swell.nothing_is_left)


def test_checkpoints_are_listed_verified_exported_and_begun_from(
    calm: Calm, swell: Swell, tmp_path: Path
) -> None:
    there = committed_steps(calm.run_dir)
    listed = json.loads(calm.swell("checkpoints", "calm", "--verify", "--json").stdout)
    assert [row["step"] for row in listed] == there
    assert all(row["valid"] and row["bytes"] > 0 for row in listed)
    exported = tmp_path / "exported.safetensors"
    assert calm.swell("checkpoints", "calm", "--export", str(exported)).returncode == 0
    assert sum(one.numel() for one in load_file(exported).values()) > 0
    job = tmp_path / "again.yaml"
    job.write_text(JOB.format(market="[]"))
    url = f"gs://a-bucket/runs/calm/checkpoints/step-{there[0]:09d}"
    fork = calm.swell("launch", str(job), "--run-id", "fork", "--from", url)
    assert fork.returncode == 0, fork.stdout + fork.stderr
    assert calm.swell.status("fork")["generations"][0]["step"] == there[0]
