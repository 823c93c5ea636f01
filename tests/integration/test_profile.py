"""Steps of a run that trains are profiled on request, and it trains as it does without."""

from __future__ import annotations

import gzip
import json

import pytest

from tests.integration.command import SLOW, Progress, Swell, until
from trainer.rundir.directory import RunDirectory

AHEAD = 150  # steps of 0.02 s and more: the leader looks every two seconds
JOB = """
name: digits
task: {task}
args: {{epochs: 60, batch: 64, width: 8}}
pools: [a2-highgpu-1g, a2-highgpu-1g]
elastic: {{spares: 0}}
"""


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_steps_of_two_ranks_are_seen_while_they_train(swell: Swell) -> None:
    job = swell.folder / "digits.yaml"
    job.write_text(JOB.format(task=SLOW))
    launch = swell.start("launch", str(job), "--run-id", "one")
    until(lambda: (swell.run_dir("one") / "run.json").exists())
    run_dir = RunDirectory(str(swell.run_dir("one")))
    progress = Progress(run_dir)
    until(lambda: progress.step > 10)
    first = progress.step + AHEAD
    ranks = ("--rank", "0", "--rank", "1")
    told = swell("profile", "one", "--steps", f"{first}:{first + 2}", *ranks, "--memory", "--json")
    assert told.returncode == 0, told.stderr
    seen = {one["rank"]: one for one in json.loads(told.stdout)}
    assert seen.keys() == {0, 1}
    for one in seen.values():
        assert (one["first"], one["last"], one["reason"]) == (first, first + 2, None)
        trace, table = one["files"]
        with gzip.open(trace) as file:
            events = json.load(file)["traceEvents"]
        backward = [event for event in events if "Backward" in str(event.get("name"))]
        assert backward, "what autograd does is in it"
        with open(table) as file:
            assert "CPU Mem" in file.read()
    status = swell.status("one")
    assert status["step"] > first and len(status["generations"]) == 1, "no world was left for it"
    assert swell("cancel", "one").returncode == 0
    assert launch.wait() == 3
