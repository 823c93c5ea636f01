"""Processes that die without a word: who is at fault, and for how long others take their place."""

from __future__ import annotations

from tests.trainer.coordinator.membership_run import A, B, C, Run
from trainer.protocol import signals
from trainer.protocol.signals import Crashed, Form, Left, Progress, Ready, TaskFailed
from trainer.protocol.world import MemberId

ECC = "Traceback\nAcceleratorError: CUDA error: uncorrectable ECC error encountered"


def test_a_program_that_raises_while_it_loads_has_lost_no_machine() -> None:
    """Its process ends by that, one machine after another; what else ends is a loss still."""
    run = Run(expected=3)
    run.step(*(signals.Joined(member, 1) for member in (A, B, C)))
    for member in (A, B):
        raised = TaskFailed(member, -1, 0, "ValueError: a", "raised", False)
        run.step(raised, Crashed(member, "code 1"))
    assert [one["member"] for one in run.emitted("task_failed")] == [A.replica, B.replica]
    assert run.emitted("loss") == []
    run.step(Crashed(C, "killed by SIGKILL"))
    assert [one["member"] for one in run.emitted("loss")] == [C.replica]


# --- ends that others cause, as a rule ----------------------------------------------


def ends(run: Run, member: MemberId, kind: str, step: int = 40, spare: bool = True) -> None:
    """A worker's process in the world ends, and another is ready."""
    how = {"killed": "killed by SIGKILL", "again": "exit code 75", "crash": "SIGSEGV"}[kind]
    failure = signals.Failure(kind, 0, step, how, True, (17,), 1)
    run.step(Crashed(member, how, spare=spare, failure=failure), Ready(member))


def test_who_is_killed_at_one_step_again_and_again_is_not_replaced_for_ever() -> None:
    """By what limits its memory, and does not say so; each world comes from a checkpoint."""
    run = Run(expected=1)
    run.start(A)
    for generation in range(1, 11):
        assert run.emitted("finished") == []
        run.step(Progress(A, generation, step=40))
        ends(run, A, "killed")
        if generation < 10:
            run.started(30)
    assert run.emitted("finished")[-1]["reason"] == (
        "step 41 has ended a worker's process 10 times: killed by SIGKILL, in rank 0 "
        "(workerpool1-0); it had the samples 17 [SW5005]"
    )


def test_who_is_killed_at_one_step_and_then_passes_it_is_nobodys_fault() -> None:
    run = Run(expected=1)
    run.start(A)
    for generation in range(1, 31):
        run.step(Progress(A, generation, step=40 + generation))
        ends(run, A, "killed", 40 + generation)
        run.started(30)
    assert run.emitted("finished") == []


def test_a_plain_script_that_crashes_at_one_step_ends_the_run_though_its_peers_end_with_it() -> (
    None
):
    """They cannot go on without it, and end to be replaced: nobody of them was lost."""
    run = Run(expected=3)
    run.start(A, B, C)
    for generation in range(1, 4):
        assert run.emitted("finished") == []
        run.step(Progress(A, generation, step=40))
        for member, kind in ((B, "again"), (A, "crash"), (C, "again")):
            ends(run, member, kind)
        if generation < 3:
            run.started(0)
    assert run.emitted("finished")[-1]["reason"].startswith(
        "step 41 has ended a worker's process 3 times, and no other had been lost: SIGSEGV"
    )


def test_peers_that_end_to_be_replaced_do_not_make_a_machines_fault_the_programs() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Progress(A, 1, step=7))
    run.step(TaskFailed(B, 1, 7, ECC, "machine", True, 1), Crashed(B, "exit 1"))
    ends(run, A, "again", 7)
    assert run.emitted("finished") == []
    assert run.emitted("fault")[-1]["whose"] == "machine"


def test_a_collective_that_fails_at_one_step_for_ever_ends_the_run() -> None:
    """A plain script's shapes differ: all its workers end to be replaced, and nobody is lost."""
    run = Run(expected=2)
    run.start(A, B)
    for generation in range(1, 11):
        assert run.emitted("finished") == []
        run.step(Progress(A, generation, step=40))
        ends(run, A, "again")
        ends(run, B, "again")
        if generation < 10:
            run.started(0)
    assert (
        "has ended a worker's process 10 times: exit code 75"
        in (run.emitted("finished")[-1]["reason"])
    )


def test_worlds_that_are_left_are_no_failures_of_a_plain_script() -> None:
    """A machine comes, is lost, or has notice: each time all other workers end to be replaced."""
    run, turn = Run(expected=2), 0
    run.start(A, B)

    def others_end() -> None:
        for member in (A, B):
            ends(run, member, "again")
        run.started(0)

    for turn in range(12):
        run.step(Progress(A, run.world.generation, step=40))
        run.wait(10.0)
        new = MemberId(C.replica, f"life {turn}")
        run.ready(new)  # it comes
        others_end()
        assert new in run.world.members
        run.step(Progress(A, run.world.generation, step=40))
        if turn % 2:
            run.step(Left(new, "gone"))
        else:
            run.step(signals.Drain(new, "notice", 15.0), Crashed(new, "exit code 75"))
        others_end()
    assert run.emitted("finished") == []


# --- a machine on which everything crashes -------------------------------------------


def crashes_new(run: Run, member: MemberId, step: int) -> None:
    """A process that has not trained dies in its first world, and the others leave that."""
    generation = run.world.generation
    failure = signals.Failure("crash", 2, 0, "killed by SIGILL", False)
    run.step(Crashed(member, "killed by SIGILL", failure=failure))
    others = [one for one in run.world.members if one != member]
    run.step(*(signals.Stopped(one, generation, step) for one in others))


def test_a_newcomer_that_crashes_costs_its_own_machine_alone() -> None:
    """Else it would be admitted again and again, and cost everybody a pause each time."""
    run = Run(expected=2)
    run.start(A, B)
    step, new = 5, C
    for faults, follows in ((1, "process"), (2, "replica"), (3, "out")):
        run.step(Progress(A, run.world.generation, step=step))
        run.wait(10.0)
        run.ready(new)
        run.stopped(A, B, step=step)
        assert new in run.world.members
        crashes_new(run, new, step)
        told = run.emitted("fault")[-1]
        assert (told["whose"], told["faults"], told["then"]) == ("newcomer", faults, follows)
        assert run.orders[-1] == Form(run.world, careful=False) and new not in run.world.members
        run.started(step)
        step += 5
        if follows == "replica":
            new = MemberId(C.replica, "second")
    assert run.emitted("finished") == []


def test_a_newcomer_at_the_sample_that_has_ended_others_is_not_its_machines_fault() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Progress(A, 1, step=40))
    for trained in (True, False, False):
        failure = signals.Failure("crash", 0, 40, "SIGSEGV", trained, (17,), 1)
        run.step(Crashed(A, "SIGSEGV", spare=True, failure=failure), Ready(A))
        run.stopped(B, step=40)
        if not run.emitted("finished"):
            run.started(40)
    assert run.emitted("fault") == []
    assert "3 times" in run.emitted("finished")[-1]["reason"]


def test_a_newcomer_that_a_lost_peer_has_aborted_is_not_at_fault() -> None:
    run = Run(expected=2)
    run.start(A, B)
    run.step(Progress(A, 1, step=5))
    run.wait(10.0)
    run.ready(C)
    run.stopped(A, B, step=5)
    run.step(Left(B, "gone"))
    crashes_new(run, C, 5)
    assert run.emitted("fault") == []


def test_machines_that_are_lost_in_between_neither_count_nor_make_it_forgotten() -> None:
    """The sample goes to another rank each time, and the world to fewer machines and to more."""
    run = Run(expected=3)
    run.start(A, B, C)
    run.step(Progress(A, 1, step=40))
    came = C
    for turn, victim in enumerate((A, B, A), 1):
        assert run.emitted("finished") == []
        failure = signals.Failure("crash", 0, 40, "SIGSEGV", turn == 1, (17,), 1)
        run.step(Crashed(victim, "SIGSEGV", spare=True, failure=failure), Ready(victim))
        run.stopped(*(one for one in run.world.members if one != victim), step=40)
        if turn < 3:
            run.started(40)
            run.step(Left(came, "gone"))
            run.stopped(A, B, step=40)
            run.started(40)
            came = MemberId(C.replica, f"again {turn}")
            run.wait(10.0)
            run.ready(came)
            run.stopped(A, B, step=40)
            run.started(40)
    assert run.emitted("finished")[-1]["reason"].startswith(
        "step 41 has ended a worker's process 3 times, and no other had been lost: SIGSEGV"
    )
    assert [one.get("gone") for one in run.emitted("loss")].count(True) == 2
