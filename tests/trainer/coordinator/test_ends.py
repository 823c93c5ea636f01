"""How a Horovod script ends: on all machines, or it has failed."""

from __future__ import annotations

import pytest

from tests.trainer.coordinator.membership_run import A, B, C, D, Run
from trainer.coordinator.member import Phase
from trainer.protocol import signals
from trainer.protocol.signals import Crashed, Done, Finish, Left, Progress, Ready, Started, Stopped
from trainer.protocol.world import MemberId


def ended(member: MemberId, step: int = 30) -> Done:
    """The script has ended well on a member with one rank."""
    return Done(member, 1, step, by_all=True, rank=(A, B, C).index(member))


def test_a_script_is_complete_when_it_has_ended_on_all_machines() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.ready(D)  # nobody is let in any more, once it ends
    assert run.step(ended(B), ended(A)) == []
    assert run.wait(1000.0) == [], "it may save, or evaluate"
    waits = run.machine.explain(run.now)
    assert waits is not None and waits.what == "the script to end on workerpool1-2, too"
    (finish,) = run.step(Done(C, 1, 30, {"loss": 0.5}, by_all=True, rank=2))
    assert finish == Finish("succeeded", "training is complete", 30, {"loss": 0.5})
    assert len(run.emitted("finished")) == 1


def test_who_is_lost_at_the_end_of_a_script_is_not_waited_for() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(ended(A))
    assert run.step(Left(B, "its connection broke"))[-1] == Finish(
        "succeeded", "training is complete", 30
    )


@pytest.mark.parametrize(
    "broken",
    [
        Stopped(B, 1, step=8, failed="Horovod has been shut down"),
        Crashed(B, "75", spare=False, failure=signals.Failure("again", 1, 8, "75")),
    ],
    ids=["elastic", "plain"],
)
def test_a_script_that_ends_on_one_machine_alone_has_failed(broken: signals.Event) -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Progress(A, 1, step=8), ended(A, 8))
    assert run.step(broken)[-1] == Finish(
        "failed",
        "the script has ended on rank 0 (workerpool1-0) after step 8, and workerpool1-1 was to "
        "train on with it: all ranks of a Horovod script must end alike, so let them agree (by an "
        "allreduce) before one leaves its loop [SW5009]",
        8,
    )
    assert run.phase is Phase.ENDED


def test_who_dies_otherwise_at_the_end_of_a_script_runs_it_again() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(ended(A))
    run.step(Crashed(B, "SIGSEGV", spare=False, failure=signals.Failure("crash", 1, 30, "x")))
    run.step(Stopped(A, 1, step=30), Ready(B))
    assert run.phase is Phase.FORMING
    assert run.step(ended(A)) == [], "of a world that is over"


def test_a_machine_has_ended_it_when_all_its_ranks_have() -> None:
    run = Run(expected=2)
    run.step(signals.Joined(A, 2), Ready(A), Started(A, 1, 0))
    assert run.step(*[Done(A, 1, 9, by_all=True, rank=1)] * 2) == []
    failure = signals.Failure("again", 0, 9, "75")
    apart = Run(expected=2)
    apart.step(signals.Joined(A, 2), Ready(A), Started(A, 1, 0))
    apart.step(Done(A, 1, 9, by_all=True, rank=1), Crashed(A, "75", False, failure))
    assert apart.emitted("finished")[-1]["reason"].endswith("[SW5009]")
    (finish,) = run.step(Done(A, 1, 9, by_all=True, rank=0))
    assert isinstance(finish, Finish) and finish.state == "succeeded"
