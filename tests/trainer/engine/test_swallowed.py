"""A program whose own except swallows what backward raises: a worker that is lost then is lost.

Some catch errors of backward, as for want of memory, and go on with the next batch. Swell's word
that a worker is gone must not end there: no step is taken unsummed, and the run goes on.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.engine.loops import _follow
from tests.trainer.engine.plain import Swell, data, numbers, plainly, require_same
from tests.trainer.ranks import formed, workers
from trainer.protocol.messages import Abort, Done, Stopped

LAST = 4  # the step after which the second worker is lost


def swallowing(make: Any, log: list[Any], told: bool = False) -> None:
    """Trains; whatever backward raises is swallowed, and the optimizer steps all the same.

    Args:
        make: makes the loop, Swell's or a plain one.
        log: gets "swallowed" for each error, and the parameters after each step.
        told: the first worker does not go on with its backward pass after ``LAST`` before it has
            been told that its world is over. So a hook raises, and not the sum.
    """
    torch.manual_seed(0)
    x, y = data(24)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in make(24, 8, 3, model=model, optimizer=optimizer):
        with step:
            i = step.indices
            loss = (model(x[i]) - y[i]).square().sum() / step.batch_size
            if make is Swell and step.number == LAST + 1 and step.size == 2:
                loss.register_hook(functools.partial(_wait, step.rank, told))
            try:
                loss.backward()
            except Exception:
                log.append("swallowed")
            optimizer.step()
            optimizer.zero_grad()
        if step.applied:
            log.append(numbers(model))


def _wait(rank: int, told: bool, gradient: Tensor) -> None:
    """At the start of a backward pass: the second worker dies there."""
    from trainer.protocol.channel import current_channel

    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while told and not current_channel().aborted(1):
        time.sleep(0.01)


@pytest.mark.parametrize("told", [True, False], ids=["a hook raises", "the sum raises"])
def test_a_loss_that_the_program_swallows_in_backward_costs_no_step(told: bool) -> None:
    run = functools.partial(swallowing, Swell, told=told)
    with workers(_follow, [run], [run]) as (survivor, lost):
        with formed(1, [survivor, lost]):
            lost.process.process.join()  # it kills itself
            if told:
                survivor.send(Abort(1))
            stopped = survivor.until(Stopped)
            assert (stopped.step, stopped.clean) == (LAST, True)
            assert stopped.failed
        with formed(2, [survivor]):
            survivor.until(Done)
        outcome = survivor.exit()
    assert outcome.error == ""
    expected = plainly(swallowing)
    assert outcome.log[LAST] == "swallowed"
    found = [one for one in outcome.log if one != "swallowed"]
    assert len(found) == len(outcome.log) - 1
    require_same(found, expected, first=1)
