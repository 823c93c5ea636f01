"""Membership under a new leader, which learns the world from the members that come over."""

from __future__ import annotations

from tests.trainer.coordinator.membership_run import A, B, C, Run, drained, world
from trainer.coordinator.member import Phase
from trainer.protocol.signals import (
    Abort,
    Drain,
    Form,
    Joined,
    Left,
    Pause,
    Progress,
    Ready,
    Started,
    Stopped,
)

# --- a new leader -----------------------------------------------------------------


def test_a_new_leader_adopts_the_world_that_it_finds() -> None:
    found = world(7, A, B)
    run = Run(last_generation=7)
    assert run.step(Joined(A, 1, found)) == []
    assert run.phase is Phase.RUNNING
    assert run.emitted("world_adopted") == [
        {"generation": 7, "world_size": 2, "members": ["workerpool1-0", "workerpool1-1"]}
    ], "who has formed it may not have come to tell of it"
    assert run.step(Joined(B, 1, found), Progress(A, 7, step=70), Progress(B, 7, step=71)) == []
    assert run.wait(60.0) == []
    assert run.step(Drain(B, "preemption", 30.0)) == [Pause(found)]
    assert run.stopped(A, B, step=80) == [drained(B), Form(world(8, A))]
    assert run.emitted("generation_formed") == [
        {
            "generation": 8,
            "world_size": 1,
            "cause": "drain",
            "members": ["workerpool1-0"],
            "step": 80,
        }
    ]


def test_a_world_that_began_while_nobody_led_goes_on_record_once() -> None:
    found = world(7, A, B)
    run = Run(last_generation=7)
    run.step(Joined(A, 1, found), Started(A, 7, 70), Joined(B, 1, found))
    assert run.emitted("resumed") == []
    for _ in range(2):
        assert run.step(Started(B, 7, 70)) == []
        (told,) = run.emitted("resumed")
        assert (told["generation"], told["step"], told["lost_steps"]) == (7, 70, 0)


def test_a_step_that_is_told_of_before_the_last_has_started_was_not_lost() -> None:
    run = Run(expected=2)
    run.ready(A, B)
    run.step(Started(A, 1, 0), Progress(A, 1, step=1), Started(B, 1, 0))
    assert [told["lost_steps"] for told in run.emitted("resumed")] == [0]


def test_a_member_that_does_not_come_over_is_lost() -> None:
    found = world(7, A, B)
    run = Run(last_generation=7, lease_renew=1.5, suspicion=2.0)
    run.step(Joined(A, 1, found))
    assert run.wait(5.0, alive=(A,)) == []
    assert run.wait(0.5, alive=(A,))[1:] == [Abort(found)]
    assert run.stopped(A, step=70) == [Form(world(8, A))]
    assert run.emitted("generation_formed")[-1]["cause"] == "leader"


def test_the_one_that_led_before_is_given_no_longer_than_a_silent_member() -> None:
    found = world(7, A, B, C)
    run = Run(last_generation=7, deposed=C, lease_renew=1.0, suspicion=2.0)
    run.step(Joined(A, 1, found), Joined(B, 1, found))
    assert run.wait(2.0, alive=(A, B)) == []
    assert run.wait(0.5, alive=(A, B))[1:] == [Abort(found)]
    assert run.stopped(A, B, step=70) == [Form(world(8, A, B))]


def test_it_is_not_lost_if_steps_go_on() -> None:
    found = world(7, A, B)
    run = Run(last_generation=7, deposed=B, lease_renew=1.5, suspicion=2.0)
    run.step(Joined(A, 1, found))
    for step in range(71, 80):
        run.step(Progress(A, 7, step))
        assert run.wait(1.0, alive=(A,)) == []


def test_a_new_leader_does_not_form_a_world_before_the_old_one_can_show_itself() -> None:
    run = Run(last_generation=7, lease_renew=1.5, suspicion=2.0)
    assert run.step(Joined(C, 1)) == []
    assert run.emitted("waiting") == []  # it does not know yet
    assert run.step(Ready(C)) == []
    assert run.wait(4.5) == []
    assert run.wait(0.5) == [Form(world(8, C))]


def test_whoever_comes_over_while_the_world_is_broken_off_hears_of_it() -> None:
    found = world(7, A, B)
    run = Run(last_generation=7)
    run.step(Joined(A, 1, found))
    assert run.step(Stopped(A, 7, step=70, failed="connection reset")) == [Abort(found)]
    assert run.step(Joined(B, 1, found)) == [Abort(found)]
    assert run.stopped(B, step=70) == [Form(world(8, A, B))]


def test_a_member_that_never_heard_of_the_world_that_was_found_breaks_it_off() -> None:
    found = world(7, A, B)
    run = Run(last_generation=6)
    assert run.ready(B) == []
    assert run.step(Joined(A, 1, found)) == [Abort(found), Abort(found)]
    assert run.stopped(A, step=70) == [Form(world(8, A, B))]


def test_a_member_of_an_older_world_breaks_the_newer_off_if_it_should_be_in_it() -> None:
    found, older = world(7, A, B), world(6, A, B, C)
    run = Run(last_generation=7)
    run.step(Joined(A, 1, found))
    assert run.step(Joined(B, 1, older))[0] == Abort(found)
    run.step(Ready(B))
    assert run.stopped(A, step=70) == [Form(world(8, A, B))]


def test_a_world_newer_than_the_adopted_one_is_broken_off_and_its_number_not_used_again() -> None:
    older, newer = world(6, A, B), world(7, A, C)
    run = Run(last_generation=6)
    run.step(Joined(A, 1, older))
    assert run.step(Joined(C, 1, newer)) == [Abort(newer)]
    run.step(Ready(C), Left(B, "gone"))
    assert run.stopped(A, step=60) == [Form(world(8, A, C))]


def test_a_member_that_lost_its_connection_for_a_moment_is_a_newcomer() -> None:
    run = Run(expected=2, admission_interval=0.0)
    first = run.start(A, B)
    run.step(Left(A, "its connection broke"))
    # It heard nothing of the end of its world.
    assert run.step(Joined(A, 1, first)) == [Abort(first)]
    run.stopped(B, step=3)
    second = run.started(step=3)
    assert second == world(2, B)
    assert run.step(Stopped(A, 1, step=3), Ready(A)) == [Pause(second)]
    assert run.stopped(B, step=4) == [Form(world(3, B, A))]
