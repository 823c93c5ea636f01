"""A machine that shows less than the others of its pool is left out, and the run goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.command import SLOW, Swell, until
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, read_events

REPLICA = "workerpool1-2"
# What a VM's preflight shows is not measured: on a machine that is shared with other tests nothing
# tells slow from fast. The replica's memory is slow while a file is there.
SITE = """
import json, os, sys
if "--preflight" in sys.orig_argv:
    task = json.loads(os.environ["CLUSTER_SPEC"])["task"]
    slow = f"{{task['type']}}-{{task['index']}}" == "{replica}" and os.path.exists({told!r})
    print(json.dumps({{"memory": 2e9 if slow else 2e10, "matmul": 1e11}}), flush=True)
    os._exit(0)
"""
JOB = """
name: digits
task: {task}
args: {{epochs: 200, batch: 64, width: 8}}
pools: [a2-highgpu-1g, {{machine: a2-highgpu-1g, replicas: 3}}]
elastic: {{min_workers: 2, spares: 0, preflight: true}}
local: {{market: {{notice: 2s, retry: 1s}}}}
"""


class OfMachines(Swell):
    """Its VMs show what the site says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.slow = folder / "slow"
        self._site = folder / "site"
        self._site.mkdir()
        text = SITE.format(replica=REPLICA, told=str(self.slow))
        (self._site / "sitecustomize.py").write_text(text)

    def environment(self) -> dict[str, str]:
        found = super().environment()
        return {**found, "PYTHONPATH": os.pathsep.join([str(self._site), found["PYTHONPATH"]])}


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_who_comes_back_on_a_slow_machine_is_left_out_with_its_figures(tmp_path: Path) -> None:
    swell = OfMachines(tmp_path)
    try:
        job = swell.folder / "digits.yaml"
        job.write_text(JOB.format(task=SLOW))
        launch = swell.start("launch", str(job), "--run-id", "one")
        until(lambda: (swell.run_dir("one") / "run.json").exists())
        run_dir = RunDirectory(str(swell.run_dir("one")))

        def told(name: str) -> list[Event]:
            return [one for one in read_events(run_dir) if one["event"] == name]

        until(lambda: any(one["world_size"] == 4 for one in told("generation_formed")))
        assert told("unfit") == [], "all are alike"
        swell.slow.touch()
        assert swell("preempt", "one", REPLICA).returncode == 0
        until(lambda: told("drain") and told("generation_formed")[-1]["world_size"] == 3)
        assert swell("preempt", "one", REPLICA, "--restore").returncode == 0
        until(lambda: len(told("unfit")) == 2 or told("finished"))
        assert [one["member"] for one in told("unfit")] == [REPLICA] * 2
        assert [one["then"] for one in told("unfit")] == ["replica", "out"]
        reason = "its memory moves 2 GB/s, and others of its pool 20"
        assert {one["reason"] for one in told("unfit")} == {reason}
        assert REPLICA not in told("generation_formed")[-1]["members"]
        step = swell.status("one")["step"]
        until(lambda: swell.status("one")["step"] > step)
        assert swell("cancel", "one").returncode == 0
        assert launch.wait() == 3
    finally:
        swell.close()
