"""A world whose bounds are changed, and members that are not wanted any more."""

from __future__ import annotations

import math
from dataclasses import replace

from tests.trainer.coordinator.membership_run import A, B, C, Run, drained, world
from trainer.coordinator.member import Phase
from trainer.protocol.signals import Bounded, Drain, Form, Pause, Progress, Release, Stopped, Tick
from trainer.protocol.world import MemberId


def away(member: MemberId) -> Release:
    """It is out, and stays out."""
    return replace(drained(member), broken=True)


def test_a_newcomer_is_let_in_as_soon_as_there_is_room_for_it() -> None:
    run = Run(expected=2, max_workers=2)
    running = run.start(A, B)
    run.ready(C)
    assert run.wait(60.0) == [], "the world is full"
    assert run.step(Bounded(3)) == [Pause(running)]
    assert run.stopped(A, B, step=7) == [Form(world(2, A, B, C))]


def test_no_bound_is_below_what_a_world_needs() -> None:
    run = Run(expected=2, min_workers=2, max_workers=2)
    run.step(Bounded(1))
    assert run.ready(A, B) == [Form(world(1, A, B))]


def test_a_smaller_bound_ends_no_world() -> None:
    run = Run(expected=2, max_workers=2)
    run.start(A, B)
    assert run.step(Bounded(1)) == [] and run.wait(60.0) == []


def test_who_is_not_wanted_leaves_at_a_step_boundary_however_long_the_step_takes() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    for step in range(1, 4):  # a minute each
        run.wait(60.0)
        run.step(Progress(A, 1, step=step), Progress(B, 1, step=step))
    assert run.step(Drain(B, "not wanted any more", math.inf)) == [Pause(running)]
    assert run.wait(59.0) == [], "it is not broken off"
    assert run.stopped(A, B, step=4) == [away(B), Form(world(2, A))]
    assert run.emitted("drain")[0].get("deadline_seconds") is None
    assert run.emitted("loss") == []


def test_a_straggler_leaves_likewise_and_its_replica_comes_back_elsewhere() -> None:
    run = Run(expected=2)
    running = run.start(A, B)
    assert run.step(Drain(B, "1.8 times as slow", math.inf, again=True)) == [Pause(running)]
    released = Release(B, "drained", rejoin=True, broken=True)
    assert run.stopped(A, B, step=4) == [released, Form(world(2, A))]


def test_all_that_trained_may_go_when_others_train_with_them() -> None:
    run = Run(expected=1)
    run.start(A)
    run.ready(B, C)
    run.wait(10.0)
    run.stopped(A, step=3)
    run.started(step=3)
    assert run.machine.phase is Phase.RUNNING
    run.step(Drain(A, "not wanted any more", math.inf), Tick())
    assert run.step(*(Stopped(one, 2, step=5) for one in (A, B, C))) == [
        away(A),
        Form(world(3, B, C)),
    ]


def test_who_is_not_wanted_and_not_in_the_world_is_sent_away_at_once() -> None:
    run = Run(expected=1, max_workers=1)
    run.start(A)
    run.ready(B)
    assert run.step(Drain(B, "not wanted any more", math.inf)) == [away(B)]
