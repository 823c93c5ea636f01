"""Membership of a torchrun script: what differs where each world is new processes."""

from __future__ import annotations

from typing import Any

from tests.trainer.coordinator.membership_run import A, B, C, Run, world
from trainer.coordinator.limits import Limits
from trainer.coordinator.member import Phase
from trainer.coordinator.tries import AT_ONCE, PATIENCE
from trainer.protocol.signals import (
    Abort,
    Crashed,
    Done,
    Drain,
    Finish,
    Form,
    Joined,
    Left,
    Pause,
    Progress,
    RankFailed,
    Ready,
)
from trainer.protocol.world import MemberId


def of_script(**limits: Any) -> Run:
    """A run of a torchrun script; by default in worlds of two or three."""
    given = {"min_workers": 2, "max_workers": 3, "sizes": (2, 3), "max_restarts": 1, "grace": 30.0}
    return Run(**{**given, **limits})


def failed(run: Run, member: MemberId, reason: str = "KeyError: 'a'", **more: Any) -> RankFailed:
    rank = run.world.members.index(member)
    fields = {"code": 1, "seconds": 100.0, **more}
    return RankFailed(member, run.world.generation, rank, reason=reason, **fields)


def done(run: Run, member: MemberId, **metrics: float) -> Done:
    return Done(member, run.world.generation, 0, metrics)


def test_the_run_is_complete_when_every_rank_is() -> None:
    run = of_script()
    run.start(A, B)
    assert run.step(done(run, A, accuracy=0.9)) == []
    assert run.step(done(run, B)) == [
        Finish("succeeded", "training is complete", 0, {"accuracy": 0.9})
    ]


def test_who_was_done_in_a_world_that_was_lost_is_not_done_in_the_next() -> None:
    run = of_script()
    run.start(A, B)
    run.step(done(run, A), Left(B, "gone"))
    run.stopped(A)
    run.ready(B)
    run.started()
    assert run.step(done(run, B)) == []
    assert run.step(done(run, A)) != []


def test_a_rank_that_fails_ends_its_world_and_another_forms() -> None:
    run = of_script()
    first = run.start(A, B)
    assert run.step(failed(run, B)) == [Abort(first)]
    assert run.stopped(A, B) == [Form(run.world)]
    assert run.emitted("generation_formed")[-1]["cause"] == "failure"
    assert run.emitted("loss") == [], "no machine is"
    (fields,) = run.emitted("rank_failed")
    assert (fields["member"], fields["rank"], fields["reason"]) == (B.replica, 1, "KeyError: 'a'")


def test_a_script_that_fails_again_and_again_ends_the_run_with_its_own_reason() -> None:
    run = of_script()
    run.start(A, B)
    run.step(failed(run, B))
    run.stopped(A, B)
    run.started()
    run.step(failed(run, A))
    (finish,) = run.stopped(A, B)
    assert isinstance(finish, Finish) and finish.state == "failed"
    assert "failed 2 times in a row" in finish.reason and "KeyError: 'a'" in finish.reason


def test_a_script_that_fails_at_once_everywhere_is_tried_once() -> None:
    run = of_script(max_restarts=9)
    world = run.start(A, B)
    assert run.step(failed(run, A, seconds=1.0)) == [], "perhaps all fail"
    assert run.step(failed(run, B, seconds=1.0)) == [Abort(world)]
    (finish,) = run.stopped(A, B)
    assert isinstance(finish, Finish) and "at once on every rank" in finish.reason


def test_one_that_fails_alone_at_once_is_not_waited_for_any_longer() -> None:
    run = of_script()
    world = run.start(A, B)
    assert run.step(failed(run, A, seconds=1.0)) == []
    assert run.wait(PATIENCE + 0.5) == [Abort(world)]


def test_steps_that_are_new_make_the_count_begin_anew() -> None:
    run = of_script(max_restarts=0)
    run.start(A, B)
    run.step(Progress(A, run.world.generation, step=5))
    run.step(failed(run, B))
    (finish,) = run.stopped(A, B)
    assert isinstance(finish, Finish), "none were made since"
    run = of_script(max_restarts=1)
    run.start(A, B)
    for step in (5, 10, 15, 20):
        run.step(Progress(A, run.world.generation, step=step))
        run.step(failed(run, B))
        assert run.stopped(A, B) == [Form(run.world)]
        run.started()


def test_failures_beside_a_lost_machine_are_its_fault() -> None:
    run = of_script(expected=3, max_restarts=0)
    run.start(A, B, C)
    run.step(failed(run, A), failed(run, B))  # their peer is gone, and nobody has noticed it
    run.step(Left(C, "gone"))
    assert run.stopped(A, B) == [Form(run.world)]
    assert run.emitted("generation_formed")[-1]["cause"] == "loss"


def test_failures_beside_a_keeper_that_has_died_are_its_fault() -> None:
    run = of_script(max_restarts=0)
    run.start(A, B)
    run.step(Crashed(A, "killed"), failed(run, B))
    run.stopped(B)
    assert run.step(Ready(A)) == [Form(run.world)]


def test_a_drain_gives_every_rank_what_the_notice_leaves() -> None:
    run = of_script(expected=3)
    world = run.start(A, B, C)
    (pause,) = run.step(Drain(C, "notice", 15.0))
    assert pause == Pause(world, 12.0)
    run.step(failed(run, A))  # it has been sent SIGTERM; or its peers are gone already
    assert run.phase is Phase.STOPPING and run.orders[-1] == pause, "others may save still"
    run.stopped(A, B, C)
    assert run.world.members == (A, B)


def test_that_a_script_is_told_to_end_and_how_far_it_was_is_on_record_as_such() -> None:
    """The view has the event alone: it says what becomes of the ranks, and that it may be more."""
    run = of_script(expected=3)
    run.start(A, B, C)
    run.step(*(done(run, member) for member in (A, B, C)))
    assert [one["least"] for one in run.emitted("finished")] == [True]
    run = of_script(expected=2)
    run.start(A, B)
    run.ready(C)  # to spare: it alone goes
    run.step(Drain(C, "notice", 15.0), Drain(A, "notice", 15.0))
    assert [one.get("script") for one in run.emitted("drain")] == [None, True]


def test_newcomers_give_every_rank_the_whole_grace() -> None:
    run = of_script()
    world = run.start(A, B)
    run.wait(10)
    assert run.ready(C) == [Pause(world, 30.0)]
    assert Abort(world) not in run.wait(29), "who saves for so long may"
    assert Abort(world) in run.wait(5)


def test_a_spare_machine_does_not_disturb_a_world_that_is_full() -> None:
    run = of_script(sizes=(2,), max_workers=2)
    run.start(A, B)
    run.ready(C)
    assert run.wait(60) == []
    run.step(Left(B, "gone"))
    run.stopped(A)
    assert run.world.members == (A, C), "it takes over"


def test_below_the_smallest_size_there_is_no_world_and_the_machines_wait() -> None:
    run = of_script(sizes=(3,), min_workers=3)
    run.start(A, B, C)
    run.step(Left(C, "gone"))
    run.stopped(A, B)
    run.wait(5)
    assert run.phase is Phase.WAITING
    assert run.emitted("waiting") == [{"slots": 2, "min_workers": 3}]
    run.ready(C)
    run.wait(2)
    assert run.phase is Phase.FORMING and run.world.members == (A, B, C)


def test_another_size_is_announced() -> None:
    run = of_script(expected=3)
    run.start(A, B, C)
    assert run.emitted("resized") == []
    run.step(Left(C, "gone"))
    run.stopped(A, B)
    assert run.emitted("resized") == [{"generation": 2, "world_size": 2, "before": 3}]


def test_another_size_is_announced_by_a_new_leader_too() -> None:
    found = world(7, A, B, C)
    run = of_script(last_generation=7)
    run.step(*(Joined(one, 1, found) for one in (A, B, C)))
    run.step(Left(C, "gone"))
    run.stopped(A, B)
    assert run.emitted("resized") == [{"generation": 8, "world_size": 2, "before": 3}]


def test_a_script_whose_steps_are_unknown_does_not_stall() -> None:
    run = of_script(stall=20.0)
    run.start(A, B)
    assert run.wait(600) == []
    run = of_script(stall=20.0)
    run.start(A, B)
    run.step(Progress(A, run.world.generation, step=1))
    assert run.wait(600) != [], "one whose steps are known does"


def test_losses_in_a_row_do_not_end_a_run_whose_worlds_live() -> None:
    run = of_script(setback_limit=2)
    run.start(A, B)
    for _ in range(4):
        run.wait(AT_ONCE + 1)
        run.step(Left(B, "gone"))
        run.stopped(A)
        run.ready(B)
        run.wait(2)
        run.started()
    assert run.phase is Phase.RUNNING


def test_losses_in_a_row_end_a_run_whose_worlds_do_not_live() -> None:
    run = of_script(setback_limit=2)
    run.start(A, B)
    for _ in range(2):
        run.step(Left(B, "gone"))
        run.stopped(A)
        if run.phase is Phase.ENDED:
            break
        run.ready(B)
        run.wait(2)
        run.started()
    assert run.phase is Phase.ENDED


def test_only_a_torchrun_script_has_a_grace() -> None:
    assert Limits().grace == 0.0 and Limits().max_restarts is None


def test_a_world_whose_files_are_being_restored_is_waited_for() -> None:
    run = of_script()
    run.ready(A, B)
    assert run.phase is Phase.FORMING
    assert run.wait(600, shown={A: {"waiting": False}, B: {"waiting": False}}) == []
