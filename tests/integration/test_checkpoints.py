"""Checkpoints of real runs on gs://: total loss, and the commands that show them."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import torch
from safetensors.torch import load_file

from launcher.emulator.vms import netns
from launcher.local.buckets import LocalBuckets
from tests.integration.command import SLOW, Swell, resumed_at, until
from trainer.checkpoints.manifest import committed_steps, read_manifest
from trainer.checkpoints.restore import Alone, load
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ENV_RUN_DIR

JOB = """
name: digits
task: {task}
args: {{epochs: {epochs}, batch: 64, width: 8, dtype: float64}}
pools: {pools}
elastic: {{spares: 0, suspicion: 5s}}
checkpoint: {{every: 10 steps, keep: 3}}
output: gs://a-bucket/runs
local: {{market: {market}}}
"""
# Two workers: on a VM each, or on one, where they are forked of one nursery.
APART, TOGETHER = "[a2-highgpu-1g, a2-highgpu-1g]", "[a2-highgpu-2g]"
EPOCHS = 8
STEPS = EPOCHS * 23
REPLICAS = ("workerpool0-0", "workerpool1-0")


def job_of(pools: str, market: list[dict[str, Any]] | None = None, epochs: int = EPOCHS) -> str:
    """The text of a job file."""
    return JOB.format(task=SLOW, epochs=epochs, pools=pools, market=json.dumps(market or []))


def launched(
    swell: Swell,
    run: str,
    market: list[dict[str, Any]] | None = None,
    *options: str,
    pools: str = APART,
) -> RunDirectory:
    job = swell.folder / f"{run}.yaml"
    job.write_text(job_of(pools, market))
    launch = swell("launch", str(job), "--run-id", run, *options)
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
    # A VM with a network of its own reaches the buckets from there.
    kind = "process" if netns.missing() else "netns"
    yield Calm(swell, launched(swell, "calm", None, "--vm", kind, pools=TOGETHER))
    swell.close()


def test_a_run_on_gs_that_lost_everything_ends_as_if_nothing_had_happened(
    calm: Calm, swell: Swell
) -> None:
    """All VMs are cut at once, at a moment of the test's choice; capacity comes back later."""
    moment = random.randrange(25, 70)
    print(f"lost after step {moment}")
    market = [{"at": f"{moment} steps", "vanish": one, "back": "2s"} for one in REPLICAS]
    options = ("--set", "checkpoint.keep=99", "--set", "audit=true")
    stormy = launched(swell, "stormy", market, *options)
    status = swell.status("stormy")
    assert status["step"] == STEPS
    by_leader: dict[int, list[int]] = {}
    for step in committed_steps(stormy):
        by_leader.setdefault(read_manifest(stormy, step).about["leader_term"], []).append(step)
    left_behind = by_leader[min(by_leader)]
    assert resumed_at(status) == left_behind[-1] >= 10, "from the newest that was there"
    # One that is due while another is being written comes as soon as that is done.
    tens = [step // 10 for step in left_behind]
    assert tens == sorted(set(tens)), "one in ten steps"
    written_in = max(10, *(after - before for before, after in pairwise([0, *left_behind])))
    assert status["steps_lost"] < 10 + written_in, "the interval, and what was done meanwhile"
    assert status["checkpoint"]["step"] == STEPS and status["checkpoint"]["failed"] == 0
    # What the first world did after the checkpoint was done again, and counts once.
    assert [epoch["exactly_once"] for epoch in status["epochs"]] == [True] * EPOCHS
    assert calm.ends_like(stormy)
    about = read_manifest(stormy, STEPS).about
    assert about["world_size"] == status["generations"][-1]["world_size"]
    assert about["global_batch"] == 64 and about["leader_term"] >= 1
    until(swell.nothing_is_left)


@pytest.mark.soak
def test_when_all_vms_get_notice_the_step_that_they_stopped_at_is_saved(
    calm: Calm, swell: Swell
) -> None:
    """Where they have networks of their own, they reach the buckets from there."""
    market = [{"at": "35 steps", "preempt": one, "notice": "15s", "back": "8s"} for one in REPLICAS]
    kind = "process" if netns.missing() else "netns"
    stormy = launched(swell, "stormy", market, "--vm", kind)
    status = swell.status("stormy")
    assert status["drains"] == 2 and status["steps_lost"] == 0
    assert resumed_at(status) >= 35
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
    job.write_text(job_of(TOGETHER))
    url = f"gs://a-bucket/runs/calm/checkpoints/step-{there[0]:09d}"
    fork = calm.swell("launch", str(job), "--run-id", "fork", "--from", url)
    assert fork.returncode == 0, fork.stdout + fork.stderr
    assert calm.swell.status("fork")["generations"][0]["step"] == there[0]


def test_a_store_that_takes_no_checkpoints_does_not_stop_training(swell: Swell) -> None:
    """Nobody may list them for a while: the status says so; the run ends with one all the same."""
    job = swell.folder / "refused.yaml"
    job.write_text(job_of(TOGETHER, epochs=12))
    seldom = ("--set", "checkpoint.every=25 steps")  # each that fails takes a moment
    launch = swell.start("launch", str(job), "--run-id", "refused", *seldom)
    until(lambda: storage_of(launch))
    faults = f"{storage_of(launch)}/emulator/v1/faults"
    rule = {"path": "checkpoints/step-", "method": "GET", "times": None, "status": 403}
    requests.post(faults, json=rule, timeout=600).raise_for_status()
    until(lambda: launch.poll() is not None or _failed(swell) > 0, every=1.0)
    requests.delete(faults, timeout=600).raise_for_status()
    launch.wait()
    status = swell.status("refused")
    assert status["state"] == "succeeded" and status["step"] == 12 * 23
    assert status["checkpoint"]["step"] == 12 * 23 and status["checkpoint"]["failed"] == 0
    assert "was not written" in swell("logs", "refused").stdout


def _failed(swell: Swell) -> int:
    return int(swell.status("refused")["checkpoint"]["failed"])


def storage_of(launch: subprocess.Popen[str]) -> str | None:
    """Where the VMs of a running launch find their buckets."""
    for process in psutil.Process(launch.pid).children(recursive=True):
        with suppress(psutil.Error):
            environment = process.environ()
            if ENV_RUN_DIR in environment:
                return environment["STORAGE_EMULATOR_HOST"]
    return None
