"""What an agent tells its coordinator of a worker that has died."""

from __future__ import annotations

from trainer.agent.telling import crashed
from trainer.agent.worker_process import WorkerProcess
from trainer.protocol import messages


def died(*said: messages.Message) -> tuple[int, list[int], int]:
    """The step, the samples and their number that are told of a worker's death."""
    worker = WorkerProcess(0, 1)
    for message in said:
        worker._note(message)
    failure = crashed(worker, "killed by SIGSEGV", "crash", spare=False).failure
    return failure.step, [*failure.samples], failure.count


TAKING = messages.Taking(7, [3, 5], 2)


def test_who_dies_in_a_step_had_its_samples() -> None:
    assert died(TAKING) == (7, [3, 5], 2)


def test_who_dies_after_a_step_had_none() -> None:
    """It evaluates, or saves: the samples of the step before are not to blame."""
    assert died(TAKING, messages.Progress(1, 8)) == (8, [], 0)


def test_who_never_said_what_it_takes_had_none_that_are_known() -> None:
    assert died(messages.Progress(1, 8)) == (8, [], 0)


def test_somebody_elses_doing_is_no_failure() -> None:
    assert not crashed(WorkerProcess(0, 1), "exit code 0", "", spare=True).HasField("failure")
