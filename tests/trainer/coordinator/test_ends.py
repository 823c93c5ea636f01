"""How a Horovod script ends: on all machines, or it has failed."""

from __future__ import annotations

import pytest

from tests.trainer.coordinator.membership_run import A, B, C, D, Run
from trainer.coordinator.member import Phase
from trainer.protocol import signals
from trainer.protocol.signals import Crashed, Done, Finish, Left, Progress, Ready, Stopped


def test_a_script_is_complete_when_it_has_ended_on_all_machines() -> None:
    run = Run(expected=3)
    run.start(A, B, C)
    run.ready(D)  # nobody is let in any more, once it ends
    assert run.step(Done(B, 1, step=30, by_all=True), Done(A, 1, step=30, by_all=True)) == []
    assert run.wait(1000.0) == [], "it may save, or evaluate"
    waits = run.machine.explain(run.now)
    assert waits is not None and waits.what == "the script to end on workerpool1-2, too"
    (finish,) = run.step(Done(C, 1, step=30, metrics={"loss": 0.5}, by_all=True))
    assert finish == Finish("succeeded", "training is complete", 30, {"loss": 0.5})
    assert len(run.emitted("finished")) == 1


def test_who_is_lost_at_the_end_of_a_script_is_not_waited_for() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Done(A, 1, step=30, by_all=True))
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
    run.step(Progress(A, 1, step=8), Done(A, 1, step=8, by_all=True))
    assert run.step(broken)[-1] == Finish(
        "failed",
        "the script has ended on workerpool1-0 after step 8, and workerpool1-1 was to train on "
        "with it: all ranks of a Horovod script must end alike, so let them agree (by an "
        "allreduce) before one leaves its loop [SW5009]",
        8,
    )
    assert run.phase is Phase.ENDED


def test_who_dies_otherwise_at_the_end_of_a_script_runs_it_again() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Done(A, 1, step=30, by_all=True))
    run.step(Crashed(B, "SIGSEGV", spare=False, failure=signals.Failure("crash", 1, 30, "x")))
    run.step(Stopped(A, 1, step=30), Ready(B))
    assert run.phase is Phase.FORMING
    assert run.step(Done(A, 1, step=30, by_all=True)) == [], "of a world that is over"
