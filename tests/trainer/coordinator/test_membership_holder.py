"""Membership and the only holder of the state: it is never given up while it lives."""

from __future__ import annotations

from tests.trainer.coordinator.membership_run import A, B, C, Run, given_up, world
from trainer.coordinator.member import Phase
from trainer.protocol.signals import (
    Abort,
    Form,
    Joined,
    Left,
    Progress,
)


def test_a_world_of_one_is_not_given_up_for_silence() -> None:
    run = Run(expected=1)
    run.start(A)
    run.step(Progress(A, 1, step=7))
    stall = run.machine.timeouts(run.now).stall
    assert run.wait(stall - 10.0, alive=()) == []
    run.step(Progress(A, 1, step=8))
    assert (run.emitted("loss"), run.machine.generation) == ([], 1)


def test_one_that_fell_silent_some_time_after_its_last_step_is_not_waited_for_without_end() -> None:
    """With each stall the patience grows; but that is none, for who is silent may not live."""
    run = Run(expected=1)
    run.start(A)
    run.step(Progress(A, 1, step=7))
    run.wait(20.0)
    run.wait(run.machine.timeouts(run.now).stall + 5.0, alive=())
    assert [one["member"] for one in run.emitted("loss")] == [A.replica]
    assert run.emitted("stalled") == []


def test_nor_is_one_whose_worker_did() -> None:
    run = Run(expected=1)
    run.start(A)
    run.step(Progress(A, 1, step=7))
    run.wait(20.0)
    stall, quiet = run.machine.timeouts(run.now).stall, 0.0
    while quiet < stall + 5.0:
        quiet += 1.0
        run.wait(1.0, shown={A: {"quiet": quiet}})
    assert [one["reason"].partition(" for ")[0] for one in run.emitted("loss")] == [
        "a worker has shown no life"
    ]


def test_its_worker_is_not_killed_for_showing_no_life() -> None:
    run = Run(expected=1)
    run.start(A)
    run.step(Progress(A, 1, step=7))
    starved = {"quiet": 500.0, "frozen": True}
    assert run.wait(500.0, shown={A: starved}) == []


def test_the_last_of_several_is_spared_too() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Progress(A, 1, step=7), Left(B, "gone"))
    assert run.wait(100.0, alive=()) == [], "it may not have noticed that the world is broken off"
    assert run.stopped(A, step=7) == [Form(world(2, A))]


def test_while_it_waits_for_others_it_may_be_silent_too() -> None:
    run = Run(expected=2, min_workers=2)
    run.start(A, B)
    run.step(Left(B, "gone"))
    run.stopped(A, step=7)
    run.wait(100.0, alive=())
    assert A in run.machine.members
    assert run.ready(C) == [Form(world(2, A, C))]


def test_when_its_connection_breaks_it_may_come_back_and_nothing_was_lost() -> None:
    run = Run(expected=1)
    running = run.start(A)
    run.step(Progress(A, 1, step=7))
    assert run.step(Left(A, "its connection broke")) == []
    assert run.wait(5.0, alive=()) == []
    assert run.step(Joined(A, 1, running)) == []
    run.step(Progress(A, 1, step=9))
    assert (run.phase, run.machine.steps, run.emitted("loss")) == (Phase.RUNNING, 9, [])


def test_when_it_does_not_come_back_it_is_lost() -> None:
    run = Run(expected=1)
    run.start(A)
    run.step(Progress(A, 1, step=7), Left(A, "its connection broke"))
    run.wait(11.0, alive=())
    assert [one["reason"] for one in run.emitted("loss")] == ["its connection broke"]
    assert run.phase is Phase.WAITING


def test_one_of_several_holders_is_given_up_as_ever() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    run.step(Progress(A, 1, step=7))
    assert run.wait(3.0, alive=(A,)) == [given_up(B, "silent for 2.0 s"), Abort(running)]
