"""Every figure of status and summary of a run to which much happens, computed from another record.

The workers write down for themselves which step they complete in which world, and when: before and
after what the engine does, so that no load can make a figure wrong that is right.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from launcher.words import dollars, part
from tests.integration.command import Swell
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, read_events

SCRIPT = Path(__file__).parent / "faulty" / "recorded.py"
STEPS, SAVED, HELD = 60, 50, 35
PER_SECOND, LIMIT = 3.0, 5000  # USD: what the three machines cost, and the most
JOB = """
name: figures
script: {script}
args: {args}
pools: [a2-highgpu-1g, {{machine: a2-highgpu-1g, replicas: 2}}]
elastic: {{min_workers: 1, spares: 0, suspicion: 5s}}
checkpoint: {{every: 10 steps, keep: 9}}
audit: true
limits: {{cost: {limit} USD}}
local:
  market:
    - {{at: 8 steps, preempt: workerpool1-1, notice: 10s}}
    - {{at: 18 steps, vanish: workerpool1-0}}
    - {{at: {last} steps, vanish: workerpool0-0, back: 30s}}
"""
# Of the summary's table.
ROW = re.compile(
    r"^ +(?P<number>\d+) +(?P<size>\d+) +(?P<cause>[a-z]+) +(?P<start>\d+|never began)"
    r"(?: +(?P<pause>[\d.]+) s)?$",
    re.MULTILINE,
)
Range = tuple[float, float]


@dataclass(frozen=True)
class World:
    """What rank 0 of a world has written down, step by step."""

    number: int
    size: int
    lines: list[dict[str, Any]]

    @property
    def start(self) -> int:
        return int(self.lines[0]["step"]) - 1

    @property
    def last(self) -> int:
        return int(self.lines[-1]["step"])

    def trained(self, until: int) -> Range:
        """Seconds of its steps but the first, up to a step."""
        counted = [one for one in self.lines if one["step"] <= until]
        if len(counted) < 2:
            return 0.0, 0.0
        if len(counted) == len(self.lines):
            return between(counted[0], counted[-1])
        # Of steps that were reported together all count alike, whatever each took.
        each = [between(one, other) for one, other in pairwise(self.lines)]
        count = len(counted) - 1
        return count * min(low for low, _ in each), count * max(high for _, high in each)


def between(one: dict[str, Any], other: dict[str, Any]) -> Range:
    """Seconds from the end of one step to that of another."""
    return other["before"] - one["after"], other["after"] - one["before"]


def recorded(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in folder.glob("*.jsonl"):
        found += [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return found


def worlds_of(record: list[dict[str, Any]]) -> list[World]:
    steps = [one for one in record if "step" in one and one["rank"] == 0]
    numbers = sorted({one["world"] for one in steps})
    found = []
    for number in numbers:
        lines = sorted((one for one in steps if one["world"] == number), key=lambda e: e["step"])
        found.append(World(number, lines[0]["size"], lines))
    return found


def lag(events: list[Event], name: str, world: int, done: float) -> float:
    """How much later than ``done`` an agent has written an event of a world down."""
    times = [
        one["time"] - one.get("age", 0.0)
        for one in events
        if one["event"] == name and one["generation"] == world
    ]
    last = (min if name == "first_step" else max)(times)
    return max(0.0, float(last) - done)


def test_every_figure_is_the_one_that_the_workers_own_record_gives(swell: Swell) -> None:
    """A drain, a silent loss, an outage in which nobody holds the state, and an end not saved."""
    record = swell.folder / "record"
    record.mkdir()
    swell.home.mkdir()
    (swell.home / "prices.yaml").write_text(f"a2-highgpu-1g: {{spot: {PER_SECOND / 3 * 3600}}}\n")
    job = swell.folder / "job.yaml"
    args = json.dumps([str(record), str(HELD)])
    job.write_text(JOB.format(script=SCRIPT, args=args, last=HELD - 1, limit=LIMIT))
    launched = time.time()
    launch = swell("launch", str(job), "--run-id", "one")
    assert launch.returncode == 1, launch.stdout + launch.stderr
    asked = time.time()
    status = swell.status("one")
    answered = time.time()
    run_dir = swell.run_dir("one")
    events = read_events(RunDirectory(str(run_dir)))
    lines = recorded(record)
    worlds = worlds_of(lines)
    ended = (run_dir / "outcome.json").stat().st_mtime
    outage = next(new for old, new in pairwise(worlds) if new.start < old.last)

    # Steps, and what became of them.
    assert status["state"] == "failed"
    assert status["step"] == worlds[-1].last == STEPS
    lost = sum(max(0, old.last - new.start) for old, new in pairwise(worlds))
    assert status["steps_lost"] == lost == HELD - 1 - outage.start > 0
    assert status["steps_left_out"] == 0
    assert f"the steps {SAVED + 1} to {STEPS} are lost" in status["reason"]
    assert (status["drains"], status["losses"]) == (1, 2)
    thriving = [
        one for one in status["generations"] if one["generation"] in [w.number for w in worlds]
    ]
    assert [(one["world_size"], one["step"]) for one in thriving] == [
        (one.size, one.start) for one in worlds
    ]
    assert [one.size for one in worlds][-3:] == [2, 1, 1]

    # Pauses.
    found = status["pauses"]
    assert [(one["generation"], one["step"]) for one in found] == [
        (one.number, one.start) for one in worlds[1:]
    ]
    assert [one["cause"] for one in found][-3:-1] == ["drain", "loss"]
    paused = [0.0, 0.0]
    for pause, (old, new) in zip(found, pairwise(worlds), strict=True):
        low, high = between(old.lines[-1], new.lines[0])
        if new is outage:  # nobody lived through it: events alone tell
            low -= lag(events, "steps", old.number, old.lines[-1]["after"])
            high += lag(events, "first_step", new.number, new.lines[0]["after"])
            assert low > 30.0
        assert low - 0.001 <= pause["seconds"] <= high + 0.001, pause
        paused = [paused[0] + low, paused[1] + high]

    # The ledger: the steps that count, each by as many VMs as its world had, and those done again.
    effective, repeated = [0.0, 0.0], [0.0, 0.0]
    for index, world in enumerate(worlds):
        until = min((one.start for one in worlds[index + 1 :]), default=SAVED)
        low, high = world.trained(until)
        first_step = 1.5 * high / max(1, min(until, world.last) - world.start - 1)
        most = high + first_step
        effective = [effective[0] + world.size * low, effective[1] + world.size * most]
        low, high = (world.trained(world.last)[0] - high, world.trained(world.last)[1] - low)
        repeated = [repeated[0] + world.size * low, repeated[1] + world.size * high]
    seconds = status["ledger"]["seconds"]
    within = sum(seconds[name] for name in ("training", "communication", "data_wait", "waiting"))
    within += seconds["checkpoint"] + seconds["evaluation"]
    assert effective[0] - 0.01 <= within <= effective[1] + 0.01
    assert repeated[0] - 0.01 <= seconds["repeated"] <= repeated[1] + 0.01
    begun = min(one["time"] for one in events if one["event"] == "attempt_started")
    (end,) = (one["end"] for one in lines if "end" in one)
    wanted = status["ledger"]["wanted"]
    assert 3 * (end - begun) * 0.995 <= wanted <= 3 * (ended + 1.0 - begun) * 1.005
    assert sum(seconds.values()) == pytest.approx(wanted, abs=0.01)
    there = wanted - seconds["absent"]
    assert status["goodput"] == pytest.approx(seconds["training"] / there, abs=1e-4)
    first = worlds[0].lines[0]
    span = end - first["after"], ended - first["before"]

    # Checkpoints, samples, metrics.
    saved = (run_dir / "checkpoints" / f"step-{SAVED:09d}" / "manifest.json").stat().st_mtime
    newest = status["checkpoint"]
    assert (newest["step"], newest["failed"]) == (SAVED, 1)
    assert asked - ended - 0.1 <= newest["age"] <= answered - saved + 0.1
    counted = {
        (one["epoch"], one["step"]): one["world"]
        for one in sorted((e for e in lines if "step" in e), key=lambda e: e["world"])
    }
    used = Counter(
        (one["epoch"], sample)
        for one in lines
        if "step" in one and counted[one["epoch"], one["step"]] == one["world"]
        for sample in one["ids"]
    )
    assert set(used.values()) == {1} and len(used) == 6 * 120
    assert (status["samples_repeated"], status["samples_skipped"]) == (0, 0)
    assert status["samples_left_out"] == 0
    # Of a run that has failed nobody says that its last epoch is over.
    assert [one["exactly_once"] for one in status["epochs"]] == [True] * 5 + [None]
    assert {one["samples"] for one in status["epochs"]} == {120}
    assert status["metrics"] == {"loss": worlds[-1].lines[-1]["loss"]}

    # What was spent, of one attempt: its machines cost as much whether they are there or not.
    spent = status["spent"]
    assert spent["attempts"] == len(status["attempts"]) == 1
    assert span[0] <= spent["seconds"] <= asked - launched
    assert PER_SECOND * span[0] <= spent["usd"] <= PER_SECOND * (asked - launched)
    assert abs(spent["usd"] - PER_SECOND * spent["seconds"]) <= PER_SECOND * 0.05 + 0.01
    left = {"usd": round(LIMIT - spent["usd"], 2), "seconds": None, "attempts": None, "until": None}
    assert spent["remaining"] == left

    # The summary says the same, and so does its table of generations.
    rows = {int(one["number"]): one for one in map(re.Match.groupdict, ROW.finditer(launch.stdout))}
    assert [(number, one["size"], one["cause"], one["start"]) for number, one in rows.items()] == [
        (
            one["generation"],
            str(one["world_size"]),
            one["cause"],
            "never began" if one["step"] is None else str(one["step"]),
        )
        for one in status["generations"]
    ]
    costs = {one["generation"]: f"{one['seconds']:.2f}" for one in found}
    assert {number: one["pause"] for number, one in rows.items() if one["pause"]} == costs
    ledger = status["ledger"]
    said = " ".join(launch.stdout[launch.stdout.index("one failed") :].split())
    for line in (
        f"steps {STEPS} completed, {lost} done again",
        "taken away 1 replica, with notice",
        "lost 2 replicas, without notice",
        f"checkpoint of step {SAVED}, ",
        "; 1 failed since (",
        "samples 5 epochs of 120, each sample exactly once in each",
        f"goodput {part(ledger['goodput']['there'])} of the time of the VMs was training",
        f"spent about {dollars(ledger['spent'])} USD, {dollars(spent['usd'])} USD count against "
        f"the limit ({dollars(left['usd'])} left)",
    ):
        assert line in said, said
    total = float(said.partition("paused ")[2].split(" s in all")[0])
    assert paused[0] - 0.1 <= total <= paused[1] + 0.1
