"""A fleet with the real trainer: several CustomJobs, whose workers form one world."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.command import Swell, until
from tests.integration.test_elastic_run import EPOCHS, check_nothing_lost, undisturbed
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events

__all__ = ["undisturbed"]  # a fixture

# Waits at a step until somebody opens the gate: who joins then, joins a run that trains.
TASK = """
import time
from pathlib import Path
from trainer.tasks.digits import Digits


class Gated(Digits):
    def __init__(self, gate, **rest):
        super().__init__(**rest)
        self.gate = gate

    def before_update(self, model, step):
        while step.number >= 100 and not Path(self.gate).exists():
            time.sleep(0.05)
"""
JOB = """
name: fleet
task: {folder}/gated.py:Gated
args: {{gate: {folder}/gate, epochs: {epochs}, batch: 64, width: 8, dtype: float64}}
fleet: 2
pools: [{{machine: a2-highgpu-1g}}, {{machine: a2-highgpu-1g, replicas: 1}}]
elastic: {{suspicion: 5s, spares: 0}}
resubmit: {{pause: 1s, longest: 2s}}
audit: true
local: {{market: {market}}}
"""


def test_a_job_that_fails_with_its_vm_costs_no_step_and_is_replaced(
    swell: Swell, undisturbed: list[float]
) -> None:
    """As Vertex AI documents it: what cannot be had again ends the whole CustomJob."""
    lost = {"at": "20 steps", "vanish": "2/workerpool1-0"}
    (swell.folder / "gated.py").write_text(TASK)
    job = swell.folder / "fleet.yaml"
    market = json.dumps({"survivors": "fail", "incidents": [lost]})
    job.write_text(JOB.format(folder=swell.folder, epochs=EPOCHS, market=market))
    launch = swell.start("launch", str(job), "--run-id", "fleet")
    until(lambda: launch.poll() is not None or ready(swell, "3/") == 2)
    (swell.folder / "gate").touch()
    output, _ = launch.communicate()
    assert launch.returncode == 0, output

    status = check_nothing_lost(swell, "fleet", undisturbed, gaps=True)
    assert [attempt["state"] for attempt in status["attempts"]] == [
        "SUCCEEDED",
        "FAILED",
        "SUCCEEDED",
    ]
    assert status["attempts"][1]["reason"].startswith("Resources are insufficient")
    worlds = [(one["world_size"], one["step"]) for one in status["generations"]]
    assert worlds[0] == (4, 0)
    assert {size for size, step in worlds if 20 <= step < 100} >= {2}, "the others train on"
    assert worlds[-1][0] == 4 and worlds[-1][1] >= 100, "and the replacement joins them"


def ready(swell: Swell, job: str) -> int:
    """How many VMs of a job have said that they are ready."""
    events = read_events(RunDirectory(str(Path(swell.run_dir("fleet")))))
    return len(
        {e["member"] for e in events if e["event"] == "member_ready" and job in str(e["member"])}
    )
