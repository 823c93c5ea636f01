"""Horovod exchanges what is ready when there is something, and waits for no clock.

With containers/patches/0009 a cycle begins by itself only as often as HOROVOD_IDLE_CYCLE_TIME
says; here that is so seldom that whatever waited for it would hang.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.trainer.ranks import PATIENCE, in_world

NEVER = str(round(10_000 * PATIENCE))  # milliseconds


def on_three(function: Callable[[], Any]) -> list[Any]:
    """What ``function`` returns on each of three ranks."""
    return in_world([1, 1, 1], function, variables={"HOROVOD_IDLE_CYCLE_TIME": NEVER})


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
    assert on_three(function) == [expected] * 3


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
    assert on_three(leave_while_others_work) == ["left", "told", "told"]


def times_awake() -> int:
    """How often this process was woken while it had nothing to do, for a second."""
    import horovod.torch as hvd

    hvd.barrier()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    time.sleep(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before


def test_who_has_nothing_to_do_sleeps() -> None:
    """A cycle of 1 ms would wake each rank 1,000 times; gloo's own thread is, every 10 ms."""
    assert max(on_three(times_awake)) < 400
