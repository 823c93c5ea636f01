"""Launch, emulator or both are killed at any moment of a run: it trains on, and ends right.

KILL_SEED=7 KILL_RUNS=30 pytest tests/integration/test_kills.py      (make kills)
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import pytest

from launcher.emulator.state import whereabouts
from launcher.emulator.vms import netns
from launcher.local.buckets import LocalBuckets
from tests.integration.command import LIMIT, SLOW, Progress, Swell, until
from tests.launcher.emulator.running import abandoned
from trainer.rundir.directory import RunDirectory

SEED = int(os.environ.get("KILL_SEED", "1"))
RUNS = int(os.environ.get("KILL_RUNS", "1"))
EPOCHS, STEPS_PER_EPOCH = 20, 23
STEPS = EPOCHS * STEPS_PER_EPOCH
Whom = Literal["launch", "emulator", "both"]
WHOM: tuple[Whom, ...] = get_args(Whom)
JOB = """
name: digits
task: {task}
args: {{epochs: {epochs}, batch: 64, width: 8, dtype: float64}}
pools: {pools}
elastic: {{spares: 0, suspicion: 10s}}
checkpoint: {{every: 100 steps}}
audit: true
local: {{vm: {vm}}}
output: {output}
"""


@dataclass(frozen=True)
class Blow:
    """One kill.

    Args:
        step: when, in completed steps; 0 for ``wait`` seconds after the one before.
        wait: see there.
        whom: whom it hits.
        alone: for how many seconds nobody attaches.
    """

    step: int
    wait: float
    whom: Whom
    alone: float


@dataclass(frozen=True)
class Plan:
    """What a run is to go through.

    Args:
        vm: what its VMs are.
        output: where its run directory is; None for this machine's disk.
        pools: its VMs.
        blows: in order.
    """

    vm: str
    output: str | None
    pools: str
    blows: tuple[Blow, ...]


def plan(seed: int) -> Plan:
    draw = random.Random(seed)
    # Some while it starts, or just after one another; the others while it trains.
    moments = sorted(draw.choice((0, draw.randrange(1, STEPS))) for _ in range(3))
    blows = tuple(
        Blow(step, draw.uniform(0, 6), draw.choice(WHOM), draw.uniform(0, 2)) for step in moments
    )
    vm = "process" if netns.missing() else draw.choice(("process", "netns"))
    output = draw.choice((None, "gs://a-bucket/runs"))
    pools = draw.choice(("[a2-highgpu-2g]", "[a2-highgpu-1g, a2-highgpu-1g]"))
    return Plan(vm, output, pools, blows)


@pytest.mark.timeout(3 * LIMIT)  # each of its waits has that limit; a busy machine takes long
@pytest.mark.parametrize("seed", range(SEED, SEED + RUNS))
def test_a_run_ends_right_whoever_is_killed_when(swell: Swell, seed: int) -> None:
    before, it = netns.names(), plan(seed)
    print(f"KILL_SEED={seed} {it}")  # seen when the test fails
    followed, attached = launched(swell, it), 0
    run_dir = RunDirectory(
        f"{it.output}/one" if it.output else str(swell.run_dir("one")),
        LocalBuckets(swell.home / "buckets") if it.output else None,
    )
    progress = Progress(run_dir)
    for blow in it.blows:
        if blow.step:
            until(partial(reached, progress, blow.step, followed))
        else:
            time.sleep(blow.wait)
        if followed.poll() is not None:
            break
        print(f"at step {progress.step}: {blow.whom}")
        if blow.whom != "launch" and (where := whereabouts(swell.state("one"))):
            with suppress(ProcessLookupError):
                os.kill(where.pid, signal.SIGKILL)
        if blow.whom != "emulator":
            followed.kill()
            followed.communicate()
            time.sleep(blow.alone)
            followed, attached = swell.start("attach", "one"), attached + 1
    said, _ = followed.communicate(timeout=LIMIT)
    assert followed.returncode == 0, said
    assert swell.nothing_is_left()
    assert abandoned(netns.names() - before) == set()

    status = swell.status("one")
    print(f"attached {attached} times; {len(status['attempts'])} attempts")
    assert (status["state"], status["step"]) == ("succeeded", STEPS)
    assert [epoch["exactly_once"] for epoch in status["epochs"]] == [True] * EPOCHS
    ran = [attempt for attempt in status["attempts"] if attempt["started"]]
    assert len(ran) == 1, "no other attempt but such as were never sent"
    lost = status["losses"], status["drains"], status["steps_lost"]
    assert lost == (0, 0, 0), "nothing has happened to the training"


def reached(progress: Progress, step: int, followed: subprocess.Popen[str]) -> bool:
    """Whether a step is completed, or never will be."""
    return progress.step >= step or followed.poll() is not None


def launched(swell: Swell, it: Plan) -> subprocess.Popen[str]:
    output = it.output or str(swell.home / "runs")
    job = swell.folder / "job.yaml"
    fields = {"epochs": EPOCHS, "pools": it.pools, "vm": it.vm, "output": json.dumps(output)}
    job.write_text(JOB.format(task=SLOW, **fields))
    launch = swell.start("launch", str(job), "--run-id", "one")
    until(lambda: launch.poll() is not None or (swell.state("one") / "launch.lock").exists())
    until(lambda: launch.poll() is not None or known(swell))
    assert launch.poll() is None
    return launch


def known(swell: Swell) -> bool:
    """Whether there is a run: one that does not exist yet cannot be attached to."""
    index = swell.home / "index" / "one.json"
    return index.exists() or (swell.run_dir("one") / "run.json").exists()
