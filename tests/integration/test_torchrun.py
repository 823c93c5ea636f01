"""Scripts that torchrun runs, under ``swell launch``: unchanged, and started anew in each world."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.integration.command import ROOT, Swell, until
from trainer.outputs.outputs import Outputs
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, read_events

SHORTEST_GRACE = 12.0  # seconds, of the 15 of a notice, before which no process is killed
SCRIPTS = Path(__file__).parent / "torchrun_scripts"
EXAMPLES = ROOT / "examples" / "torchrun"


# Ranks on a VM each.
APART = "[{machine: a2-highgpu-1g}, {machine: a2-highgpu-1g, replicas: 2}]"
PAIR = "[{machine: a2-highgpu-1g}, {machine: a2-highgpu-1g}]"
Logs = list[tuple[str, str]]  # whose, and a line


def launched(
    swell: Swell, torchrun: dict[str, Any], market: list[dict[str, str]], pools: str = APART
) -> tuple[subprocess.CompletedProcess[str], Logs]:
    """Runs a script. Returns the launch, and what was printed."""
    job = swell.folder / "job.yaml"
    job.write_text(
        f"name: script\ntorchrun: {json.dumps(torchrun)}\npools: {pools}\n"
        f"local: {{market: {json.dumps(market)}}}\n"
    )
    launch = swell("launch", str(job), "--run-id", "one")
    logs = [line.split(" ", 2) for line in swell("logs", "one").stdout.splitlines()]
    until(swell.nothing_is_left)
    return launch, [(line[1], line[2]) for line in logs if len(line) == 3]


def said(logs: Logs, pattern: str) -> list[re.Match[str]]:
    return [found for _, line in logs if (found := re.fullmatch(pattern, line))]


def numbers(names: Iterable[str]) -> set[int]:
    """The steps that checkpoints are named after."""
    return {int(one) for name in names for one in re.findall(r"\d+", name)}


@dataclass
class Life:
    """What a script did in one world, by its own log.

    Attributes:
        size: of the world.
        begun: the step that it went on from.
        last: the last that it made.
        saved: the step that it saved when it was asked to end; None if it did not.
    """

    size: int
    begun: int
    last: int
    saved: int | None = None


def lives(logs: Logs) -> list[Life]:
    """Those of rank 0 that made a step. It stays on one machine, whose log is in order."""
    found: list[Life] = []
    for whose, line in logs:
        if whose != "workerpool0-0":
            continue
        if begins := re.fullmatch(r"rank 0 of (\d) begins at step (\d+)", line):
            found.append(Life(int(begins[1]), int(begins[2]), int(begins[2])))
        elif step := re.fullmatch(r"step (\d+) loss \S+", line):
            assert int(step[1]) == found[-1].last + 1
            found[-1].last = int(step[1])
        elif saved := re.fullmatch(r"rank 0 saved step (\d+) and ends", line):
            found[-1].saved = int(saved[1])
    return [life for life in found if life.last > life.begun]


@dataclass(frozen=True)
class Example:
    """A script that says where it begins, each step, and what it saves when it is asked to end."""

    script: Path
    steps: int = 300
    args: tuple[str, ...] = ("--steps", "{steps}", "--pause", "{pause}")
    pause: float = 0.04
    sizes: tuple[int, int] = (2, 3)
    saves_every: int = 20
    preload: tuple[str, ...] = ()

    def rode(self, swell: Swell, market: list[dict[str, str]], pools: str) -> list[Event]:
        """Runs it to its end, in worlds of two sizes. Returns the worlds, as they formed.

        Whatever became of the VMs, each step was made, and what was saved was gone on from.
        """
        torchrun = {
            "script": str(self.script),
            "args": [one.format(steps=self.steps, pause=self.pause) for one in self.args],
            "preload": self.preload,
            "grace": "10min",  # but what a notice leaves
            "sizes": self.sizes,
            "progress": r"step (?P<step>\d+) loss (?P<loss>[\d.]+)",
        }
        launch, logs = launched(swell, torchrun, market, pools)
        said_all = "\n".join([launch.stdout, launch.stderr, *map(" ".join, logs)])
        assert launch.returncode == 0, said_all
        events = read_events(RunDirectory(str(swell.run_dir("one"))))
        worlds = [one for one in events if one["event"] == "generation_formed"]
        assert worlds[0]["world_size"] == max(self.sizes)
        assert "no_group" not in {one["event"] for one in events}, "it trains together"
        begins = [(int(one[1]), int(one[2]), int(one[3])) for one in
                  said(logs, r"rank (\d) of (\d) begins at step (\d+)")]  # fmt: skip
        for world in worlds[1:]:
            assert any(size == world["world_size"] for _, size, _ in begins)
        saved = {int(one[1]) for one in said(logs, r"rank \d saved step (\d+) and ends")}
        assert saved & {step for _, _, step in begins}, "what all saved is gone on from"
        by_itself = {*range(0, self.steps, self.saves_every)}
        assert {step for _, _, step in begins} <= saved | by_itself
        for size in {size for _, size, _ in begins}:
            by_world = [step for _, other, step in begins if other == size]
            together = all(by_world.count(step) % size == 0 for step in by_world)
            assert together, "all from the same step"
        trained = said(logs, rf"rank (\d) of (\d) has trained {self.steps} steps")
        assert len(trained) == worlds[-1]["world_size"]
        resized = [one for one in events if one["event"] == "resized"]
        assert [(one["before"], one["world_size"]) for one in resized[:1]] == [self.sizes[::-1]]
        steps = [int(one[1]) for one in said(logs, r"step (\d+) loss \S+")]
        assert {*steps} == {*range(1, self.steps + 1)}
        status = swell.status("one")
        assert status["step"] == self.steps and status["metrics"]["loss"] > 0
        check_repeats(logs, events, status)
        # What it has written is there when all VMs are gone.
        outputs = Outputs(RunDirectory(str(swell.run_dir("one"))), swell.folder / "back" / "output")
        outputs.begin(99, 0, 1, outputs.newest())
        there = {path.name for path in (swell.folder / "back" / "output").iterdir()}
        assert there and numbers(there) <= saved | by_itself | {self.steps}
        return worlds


# What each is beside a loop over DDP's steps: how it saves when it is asked to, and resumes.
FRAMEWORKS = [
    Example(EXAMPLES / "fsdp2.py"),
    Example(EXAMPLES / "hf_trainer.py", preload=("transformers.trainer",)),
    Example(EXAMPLES / "accelerated.py", preload=("accelerate",)),
    Example(EXAMPLES / "lightning_ddp.py", preload=("lightning.pytorch",)),
]
LIVE_ON: list[Any] = [
    Example(SCRIPTS / "ddp.py", args=("{steps}",), saves_every=10),
    *(pytest.param(one, marks=pytest.mark.soak) for one in FRAMEWORKS),
]


def name(example: Example) -> str:
    return example.script.stem


@pytest.mark.parametrize("example", LIVE_ON, ids=name)
def test_a_script_lives_through_a_drain_a_silent_loss_and_a_return(
    swell: Swell, example: Example
) -> None:
    market = [
        {"at": "30 steps", "preempt": "workerpool1-0", "notice": "15s", "back": "80 steps"},
        {"at": "180 steps", "vanish": "workerpool1-1"},
    ]
    worlds = example.rode(swell, market, APART)
    causes = {one["cause"] for one in worlds}
    events = read_events(RunDirectory(str(swell.run_dir("one"))))
    led = {one["member"] for one in events if one["event"] == "leader_changed"}
    # Whoever has come to lead, where pool 0 was slow to start, is missed as the leader.
    assert "drain" in causes and ("loss" in causes or "workerpool1-1" in led)
    drained = next(n for n, one in enumerate(worlds) if one["cause"] == "drain")
    assert "workerpool1-0" not in worlds[drained]["members"]
    # By itself, or with what follows the loss: by then it may only just have come.
    assert any("workerpool1-0" in one["members"] for one in worlds[drained + 1 :])


@pytest.mark.parametrize(
    "example",
    [
        one if name(one) in ("fsdp2", "hf_trainer") else pytest.param(one, marks=pytest.mark.soak)
        for one in FRAMEWORKS
    ],
    ids=name,
)
def test_a_framework_saves_when_it_is_asked_to_and_goes_on_in_a_smaller_world(
    swell: Swell, example: Example
) -> None:
    """Its own part in the story above, which make soak tells of it in full."""
    market = [{"at": "20 steps", "preempt": "workerpool1-0", "notice": "15s"}]
    short = replace(example, steps=140, pause=0.06, sizes=(1, 2))
    worlds = short.rode(swell, market, PAIR)
    assert worlds[-1]["cause"] == "drain"


def check_repeats(logs: Logs, events: list[Event], status: dict[str, Any]) -> None:
    """What a script does again is told, and no more than docs/from-torchrun.md says."""
    told = [one for one in status["generations"] if one["step"] is not None]
    begun = lives(logs)
    assert [(one["world_size"], one["step"]) for one in told] == [
        (life.size, life.begun) for life in begun
    ]
    repeated = [before.last - after.begun for before, after in pairwise(begun)]
    assert status["steps_lost"] == sum(repeated) and min(repeated) >= 0, "by the script's own log"
    saves = [one for one in events if one["event"] == "output_committed"]
    for world, (before, after) in zip(told[1:], pairwise(begun), strict=True):
        earlier = [one for one in saves if one["generation"] < world["generation"]]
        names = [name for one in earlier for name in one["names"]]
        if numbers(names) or not names:  # else it has one file, whatever the step
            assert after.begun == max(numbers(names), default=0), "all that was committed is kept"
        if world["cause"] == "grow" or drained_in_time(world, events):
            assert after.begun == before.saved == before.last, "all had saved, and nothing is lost"


def drained_in_time(world: dict[str, Any], events: list[Event]) -> bool:
    """Whether a world took the place of one that had left before the notice left no more time."""
    at = float(world["at"])
    notices = [float(one["time"]) for one in events if one["event"] == "drain"]
    notices = [notice for notice in notices if notice <= at]
    return world["cause"] == "drain" and at - max(notices) < SHORTEST_GRACE


def test_a_script_that_fails_at_once_is_tried_once_and_told_of_by_rank(swell: Swell) -> None:
    script = swell.folder / "broken.py"
    script.write_text("import os\nraise KeyError('no pears for ' + os.environ['WORLD_SIZE'])\n")
    launch, logs = launched(swell, {"script": str(script)}, [], "[a2-highgpu-2g]")
    assert launch.returncode == 1
    told = launch.stdout + launch.stderr
    assert "the script fails at once on every rank [SW5020]" in told
    assert "ranks 0-1" in told and "KeyError: 'no pears for 2'" in told
    assert len([line for _, line in logs if line == "KeyError: 'no pears for 2'"]) == 2, "one try"


UNUSED_GROUP = """
import torch
from torch import distributed

distributed.init_process_group("gloo")
model = torch.nn.Linear(4, 1)  # and is never wrapped
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for _ in range(120):
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
if distributed.get_rank() == 0:
    print("has trained among", distributed.get_world_size())
distributed.destroy_process_group()
"""


def test_a_group_that_nothing_goes_through_is_told_of(swell: Swell) -> None:
    script = swell.folder / "unwrapped.py"
    script.write_text(UNUSED_GROUP)
    torchrun = {"script": str(script), "preload": ["torch"]}
    launch, logs = launched(swell, torchrun, [], "[a2-highgpu-2g]")
    assert launch.returncode == 0 and len(said(logs, "has trained among 2")) == 1
    text = "nothing was ever sent through its process group"
    assert text in launch.stdout and "[SW5029]" in launch.stdout
    assert [text in one for one in swell.status("one")["troubles"]] == [True]
