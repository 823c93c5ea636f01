"""Checkpoints of real runs on gs://: total loss, and the commands that show them."""

from __future__ import annotations

import json

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
args: {{epochs: 3, batch: 64, width: 8, dtype: float64}}
pools: [{{machine: a2-highgpu-1g}}, {{machine: a2-highgpu-1g}}]
elastic: {{spares: 0, suspicion: 5s}}
checkpoint: {{every: 10 steps, keep: 3}}
output: gs://a-bucket/runs
local: {{market: {market}}}
"""
STEPS = 3 * 23


def launched(swell: Swell, run: str, market: str = "[]") -> RunDirectory:
    job = swell.folder / f"{run}.yaml"
    job.write_text(JOB.format(market=market))
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


def test_a_run_on_gs_that_lost_everything_ends_as_if_nothing_had_happened(swell: Swell) -> None:
    market = json.dumps(
        [
            {"at": "35 steps", "vanish": replica, "back": "2s"}
            for replica in ("workerpool0-0", "workerpool1-0")
        ]
    )
    calm, stormy = launched(swell, "calm"), launched(swell, "stormy", market)
    status = swell.status("stormy")
    assert status["step"] == STEPS
    resumed_at = status["generations"][1]["step"]
    assert resumed_at >= 10 and resumed_at % 10 == 0, "from a checkpoint"
    for ours, theirs in zip(weights(calm, STEPS), weights(stormy, STEPS), strict=True):
        assert torch.allclose(ours.double(), theirs.double(), rtol=1e-6, atol=1e-9)
    about = read_manifest(stormy, STEPS).about
    assert about["world_size"] == 2 and about["global_batch"] == 64 and about["leader_epoch"] >= 1

    listed = json.loads(swell("checkpoints", "stormy", "--verify", "--json").stdout)
    assert [row["step"] for row in listed] == committed_steps(stormy)
    assert all(row["valid"] and row["bytes"] > 0 for row in listed)
    exported = swell.folder / "exported.safetensors"
    assert swell("checkpoints", "stormy", "--export", str(exported)).returncode == 0
    assert sum(one.numel() for one in load_file(exported).values()) > 0
    again = swell.folder / "again.yaml"
    again.write_text(JOB.format(market="[]"))
    fork = swell(
        *("launch", str(again), "--run-id", "fork"),
        *("--from", f"gs://a-bucket/runs/calm/checkpoints/step-{committed_steps(calm)[0]:09d}"),
    )
    assert fork.returncode == 0, fork.stdout + fork.stderr
    assert swell.status("fork")["generations"][0]["step"] == committed_steps(calm)[0]
    until(swell.nothing_is_left)
