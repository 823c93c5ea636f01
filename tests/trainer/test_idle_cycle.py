"""Horovod exchanges what is ready when there is something, and waits for no clock.

What is built with containers/horovod_fixes.py begins a cycle by itself only as often as
HOROVOD_IDLE_CYCLE_TIME says; here that is so seldom that whatever waited for it would hang.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from .ranks import PATIENCE, Meeting, Process, _member, world_of

NEVER = str(round(10_000 * PATIENCE))  # milliseconds


def every_rank(function: Callable[[], Any], ranks: int = 3) -> list[Any]:
    """What ``function`` returns on each of so many ranks."""
    with Meeting(world_of(*[1] * ranks)) as meeting:
        processes = [
            Process(_member, {**env, "HOROVOD_IDLE_CYCLE_TIME": NEVER}, function, ())
            for env in meeting.environments
        ]
        try:
            return [process.result() for process in processes]
        finally:
            for process in processes:
                process.close()


def sums() -> list[float]:
    import horovod.torch as hvd
    import torch

    return [
        float(hvd.allreduce(torch.ones(2), op=hvd.Sum, name=f"sum.{turn % 4}")[0])
        for turn in range(40)
    ]


def late() -> float:
    """One rank comes later than the others, each time another one."""
    import horovod.torch as hvd
    import torch

    total = 0.0
    for turn in range(9):
        if turn % hvd.size() == hvd.rank():
            time.sleep(0.05)
        total += float(hvd.allreduce(torch.ones(1), op=hvd.Sum, name="late"))
    return total


def in_another_order() -> list[float]:
    """What one rank begins with is what the other ends with."""
    import horovod.torch as hvd
    import torch

    found = []
    for _ in range(5):
        order = list(range(6))
        if hvd.rank() % 2:
            order.reverse()
        handles = {n: hvd.allreduce_async(torch.ones(1), op=hvd.Sum, name=f"o.{n}") for n in order}
        found += [float(hvd.synchronize(handles[n])) for n in range(6)]
    return found


def mixed() -> tuple[list[int], float, int]:
    """Everything that has a queue of its own kind."""
    import horovod.torch as hvd
    import torch

    gathered = hvd.allgather(torch.tensor([hvd.rank()]), name="gather").tolist()
    group = hvd.grouped_allreduce([torch.ones(1), torch.ones(1)], op=hvd.Sum, name="group")
    hvd.barrier()
    sent = hvd.broadcast(torch.tensor([hvd.rank()]), root_rank=1, name="sent")
    return gathered, float(group[1]), int(sent)


@pytest.mark.parametrize(
    "function, expected",
    [
        (sums, [3.0] * 40),
        (late, 27.0),
        (in_another_order, [3.0] * 30),
        (mixed, ([0, 1, 2], 3.0, 1)),
    ],
)
def test_nothing_waits_for_the_next_idle_cycle(function: Callable[[], Any], expected: Any) -> None:
    assert every_rank(function) == [expected] * 3


def leave_while_others_work() -> str:
    import horovod.torch as hvd
    import torch
    from horovod.common.exceptions import HorovodInternalError

    hvd.allreduce(torch.ones(1), name="once")
    if hvd.rank() == 0:
        return "left"  # and shuts down
    try:
        hvd.allreduce(torch.ones(1), name="never answered")
    except HorovodInternalError:
        return "told"
    return "not told"


def test_who_waits_for_one_that_leaves_is_told() -> None:
    assert every_rank(leave_while_others_work) == ["left", "told", "told"]
