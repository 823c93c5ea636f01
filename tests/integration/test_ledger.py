"""A run that loses time in every way there is: each is on its account, as the run's own stamps say.

It queues, loses a VM with notice and one without, then all of them, so that steps are done again
from a checkpoint; its data are slow, its store is, one worker straggles, and it evaluates.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from launcher.status.history import History
from launcher.status.ledger import ledger_of
from tests.integration.command import Swell
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events

SCRIPT = Path(__file__).parent / "faulty" / "accounted.py"
QUEUED = 8  # seconds
JOB = """
name: ledger
script: {script}
args: [{record}]
pools: [a2-highgpu-1g, {{machine: a2-highgpu-1g, replicas: 2}}]
elastic: {{min_workers: 1, spares: 0, suspicion: 4s}}
checkpoint: {{every: 10 steps, keep: 3}}
local:
  market:
    notice: 4s
    retry: 20s
    capacity:
      - {{machine: a2-highgpu-1g, vms: {{0s: 0, {queued}s: 3}}}}
    incidents:
      - {{at: 12 steps, preempt: workerpool1-1, notice: 4s, back: 20 steps}}
      - {{at: 28 steps, vanish: workerpool1-0, back: 36 steps}}
      - {{at: 57 steps, vanish: workerpool1-0, back: 12s}}
      - {{at: 57 steps, vanish: workerpool1-1, back: 12s}}
      - {{at: 57 steps, vanish: workerpool0-0, back: 12s}}
"""
Line = dict[str, Any]


def lines_of(folder: Path) -> list[Line]:
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        told = [json.loads(it) for it in path.read_text().splitlines() if it.endswith("}")]
        found += [{"process": path.name, **one} for one in told]
    return found


def injected(lines: list[Line]) -> tuple[dict[str, float], float]:
    """VM-seconds of each kind in steps that count, and of repeated ones, by its own stamps."""
    steps = [one for one in lines if "step" in one]
    worlds = sorted({one["world"] for one in steps})
    starts = [min(one["step"] for one in steps if one["world"] == world) for world in worlds]
    limits = {
        world: min(starts[index + 1 :], default=10**9) - 1 for index, world in enumerate(worlds)
    }
    kinds: dict[str, float] = defaultdict(float)
    within = 0.0
    taken: dict[tuple[int, int], list[Line]] = defaultdict(list)
    for one in steps:
        taken[one["world"], one["step"]].append(one)
    for (before, _), (now, ranks) in pairwise(sorted(taken.items())):
        if before[0] != now[0]:
            continue  # a first step is a start, or part of a re-formation, but for what is usual
        took = max(one["summed"] for one in ranks) - max(one["summed"] for one in taken[before])
        if now[1] > limits[now[0]]:
            kinds["repeated"] += took * len(ranks)
            continue
        within += took * len(ranks)
        last = max(one["complete"] for one in ranks)
        for one in ranks:
            kinds["waiting"] += last - one["complete"]
            for name in ("data_wait", "checkpoint", "evaluation"):
                kinds[name] += one[name]
    # What follows the last step is of no other. One rank is left to write it down: the run is over.
    last = max(one["evaluation"] for one in lines if "ended" in one)
    kinds["evaluation"] += last * len(taken[max(taken)])
    return kinds, within


@pytest.mark.soak
def test_each_kind_of_loss_is_on_its_account(swell: Swell) -> None:
    record = swell.folder / "record"
    record.mkdir()
    job = swell.folder / "job.yaml"
    job.write_text(JOB.format(script=SCRIPT, record=json.dumps(str(record)), queued=QUEUED))
    launch = swell("launch", str(job), "--run-id", "one")
    assert launch.returncode == 0, launch.stdout + launch.stderr
    events = read_events(RunDirectory(str(swell.run_dir("one"))))
    history = History(events)
    ledger = ledger_of(history, None)
    assert ledger is not None
    lines, seconds = lines_of(record), dict(ledger.seconds)
    print({name: round(took, 2) for name, took in seconds.items()})

    # All of it: three VMs, from the submission to the end.
    started = min(one["time"] for one in events if one["event"] == "attempt_started")
    ended = max(one["time"] for one in events if one["event"] == "finished")
    assert ledger.wanted == pytest.approx(3 * (ended - started), rel=0.005)

    # What happens within steps; a first step of a world is one of them.
    kinds, within = injected(lines)
    print(dict(kinds), within)
    steps = {(one["world"], one["step"]) for one in lines if "step" in one}
    firsts = len({world for world, _ in steps}) / len(steps)
    for name in ("data_wait", "checkpoint", "evaluation", "waiting", "repeated"):
        least, most = 0.9 * kinds[name], 1.1 * kinds[name] / (1 - firsts)
        assert least - 0.2 <= seconds[name] <= most + 0.2, name

    # Who was there: from the start of its agent to its last step, or to its end.
    ahead = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    there = 0.0
    for process in {one["process"] for one in lines}:
        own = [one for one in lines if one["process"] == process]
        (born,) = (one["born"] for one in own if "born" in one)
        last = max([one["summed"] for one in own if "step" in one], default=born)
        newest = max(one["step"] for one in own if "step" in one)
        there += (ended - ahead if newest == history.step else last) - born
    assert seconds["absent"] == pytest.approx(3 * (ended - started) - there, rel=0.1)
    assert seconds["absent"] > 3 * QUEUED + 15.0
    # What is left is what it takes to begin, and to go on in another world.
    left = {name: seconds[name] for name in ("starting", "re_forming", "communication", "stopped")}
    known = within + kinds["repeated"] + seconds["absent"]
    assert sum(left.values()) == pytest.approx(ledger.wanted - known, rel=0.1)
    status = swell.status("one")
    assert status["steps_lost"] > 0 and (status["drains"], status["losses"]) == (1, 4)
    assert status["goodput"] == pytest.approx(ledger.goodput, abs=1e-3)
