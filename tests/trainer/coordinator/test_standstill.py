"""When a world that stands still is looked at, and what is made of the answers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.trainer.coordinator.membership_run import A, B, C, world
from trainer.coordinator import standstill
from trainer.coordinator.standstill import ANSWER, GROWS, Report, Standstill
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.stacks import Frame, render
from trainer.protocol.world import World

WORLD = world(4, A, B, slots=2)
TEXT = render([(Frame("/code/train.py", 9, "load"),)])


class Run:
    """A world whose last step was completed at 0, and somebody who looks."""

    def __init__(self, pace: float = 0.1, stall: float = 600.0) -> None:
        self.watch = Standstill(30.0)
        self.pace, self.stall, self.since = pace, stall, 0.0
        self.world: World | None = WORLD

    def due(self, now: float) -> pb.Inspect | None:
        return self.watch.due(self.world, self.since, self.pace, self.stall, 12, now)

    def asked(self, now: float) -> pb.Inspect:
        inspect = self.due(now)
        assert inspect is not None
        return inspect

    def answer(self, number: int, *ranks: int, **more: Any) -> None:
        for rank in ranks:
            stack = pb.Stack(rank=rank, text=TEXT, **more)
            member = A if rank < 2 else B
            self.watch.take(member, pb.Stacks(number=number, stacks=[stack]))

    def report(self, now: float) -> Report:
        report = self.watch.report(now)
        assert report is not None
        return report


@pytest.mark.parametrize(
    "pace, stall, limit",
    [
        (0.0, 3600.0, 30.0),  # not known yet
        (0.1, 600.0, 30.0),
        (10.0, 600.0, 100.0),  # ten steps
        (60.0, 1200.0, 600.0),  # before the world is broken off
        (0.1, 20.0, 10.0),
    ],
)
def test_after_ten_steps_time_but_not_before_half_a_minute(
    pace: float, stall: float, limit: float
) -> None:
    run = Run(pace, stall)
    assert run.due(limit - 0.1) is None
    assert run.asked(limit).generation == 4


def test_it_is_asked_once_and_then_ever_more_seldom() -> None:
    run = Run()
    first = run.asked(30.0)
    assert run.due(31.0) is None, "it has been asked"
    run.answer(first.number, 0, 1, 2, 3)
    run.report(31.0)
    assert run.due(GROWS * 30.0 - 1) is None
    second = run.asked(GROWS * 30.0)
    assert second.number == first.number + 1


def test_before_a_worker_that_shows_no_life_is_killed_for_it() -> None:
    run = Run()
    assert run.watch.due(WORLD, 0.0, 0.1, 600.0, 12, 5.0, silent=True)
    run.answer(1, 0, 1, 2, 3)
    assert run.report(6.0).seconds == 5.0
    assert run.watch.due(WORLD, 0.0, 0.1, 600.0, 12, 7.0, silent=True) is None, "once"


def test_another_step_begins_anew() -> None:
    run = Run()
    run.answer(run.asked(30.0).number, 0, 1, 2, 3)
    run.report(31.0)
    run.since = 40.0
    assert run.due(69.0) is None
    assert run.asked(70.0)


@pytest.mark.parametrize("stops", ["goes on", "is left", "tells no steps"])
def test_what_was_asked_of_a_world_that_stands_still_no_more_is_left(stops: str) -> None:
    run = Run()
    asked = run.asked(30.0)
    if stops == "goes on":
        run.since = 30.5
    elif stops == "is left":
        run.world = None
    else:
        run.stall = math.inf
    assert run.due(31.0) is None
    run.answer(asked.number, 0, 1, 2, 3)
    assert run.watch.report(31.0) is None


def test_all_answers_make_a_report() -> None:
    run = Run()
    number = run.asked(30.0).number
    run.answer(number, 0, 1, 2)
    assert run.watch.report(31.0) is None
    run.answer(number, 3, busy=1.0)
    report = run.report(31.0)
    assert (report.generation, report.step, report.seconds) == (4, 12, 30.0)
    assert report.reason == (
        "ranks 0-2 do nothing in load (train.py:9); rank 3 computes in load (train.py:9)"
    )
    assert report.name == "stacks/000004-000000012-30s.txt"
    assert report.text.count("in load\n") == 2, "stacks that are alike are there once"
    assert (
        f"== ranks 0-2 ({A.replica}, {B.replica}): does nothing in load (train.py:9)" in report.text
    )
    assert run.watch.report(32.0) is None, "it is told once"


def test_who_does_not_answer_is_named() -> None:
    run = Run()
    run.answer(run.asked(30.0).number, 0, 1)
    assert run.watch.report(30.0 + ANSWER - 0.1) is None
    report = run.report(30.0 + ANSWER)
    assert report.reason == (
        "ranks 0-1 do nothing in load (train.py:9); "
        "ranks 2-3 give no stack: its agent does not answer"
    )


def test_only_what_was_asked_and_only_of_ones_own_ranks_counts() -> None:
    run = Run()
    number = run.asked(30.0).number
    own = pb.Stack(rank=0, text=TEXT)
    run.watch.take(C, pb.Stacks(number=number, stacks=[own]))
    run.watch.take(B, pb.Stacks(number=number, stacks=[own]))
    run.watch.take(A, pb.Stacks(number=number + 1, stacks=[own]))
    report = run.report(30.0 + ANSWER)
    assert report.reason == "all 4 ranks give no stack: its agent does not answer"


def test_what_an_agent_says_is_believed_as_far_as_it_is_a_stack() -> None:
    run = Run()
    number = run.asked(30.0).number
    lies = pb.Stack(rank=0, text="\x1b[2Jhunter2\n" + TEXT + "\nhunter2", busy=math.nan)
    lies.missing = ""
    lies.waits_for = "x" * 10_000
    run.watch.take(A, pb.Stacks(number=number, stacks=[lies]))
    text = run.report(30.0 + ANSWER).text
    assert "hunter2" not in text and "\x1b" not in text
    assert len(text) < 3000


def test_all_stacks_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standstill, "TEXT_LIMIT", 1000)
    run = Run()
    number = run.asked(30.0).number
    for rank in range(4):
        frames = tuple(Frame(f"/code/{rank}.py", line, "f") for line in range(10))
        stack = pb.Stack(rank=rank, text=render([frames]))
        run.watch.take(A if rank < 2 else B, pb.Stacks(number=number, stacks=[stack]))
    text = run.report(31.0).text
    assert "left out" in text
    assert len(text) < 1500
