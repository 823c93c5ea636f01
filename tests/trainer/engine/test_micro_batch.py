"""Parts are never larger than what has been seen to fit, and smaller where memory runs out."""

from __future__ import annotations

import functools
import os
import signal
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.engine.loops import _follow, trained
from tests.trainer.ranks import alone, formed, workers
from trainer.engine.agreement import Agreement, Holding
from trainer.engine.micro_batch import MicroBatch, ran_out
from trainer.engine.mistake import Mistake
from trainer.engine.portable import Portable
from trainer.protocol.messages import Done, Stopped

SAMPLES, BATCH = 48, 12
X = torch.linspace(-1, 1, SAMPLES, dtype=torch.float64).unsqueeze(1)
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def sizes(micro: MicroBatch, share: int, most: int | None = None) -> list[int]:
    return [len(part) for part in micro.split(torch.arange(share), most)]


def test_a_share_is_taken_whole_until_something_is_known() -> None:
    assert sizes(MicroBatch(Portable()), 12) == [12]
    assert sizes(MicroBatch(Portable()), 0) == []


def test_a_larger_share_comes_in_parts_of_what_has_fitted() -> None:
    micro = MicroBatch(Portable())
    micro.fitted([torch.arange(8), torch.arange(3)])
    assert sizes(micro, 8) == [8]
    assert sizes(micro, 20) == [7, 7, 6]
    assert sizes(micro, 20, most=10) == [10, 10], "what the program asks for is its own affair"


def test_where_memory_runs_out_parts_are_halved_down_to_a_sample() -> None:
    micro = MicroBatch(Portable())
    micro.fitted([torch.arange(8)])
    assert micro.halve(FULL, [torch.arange(8)])
    assert sizes(micro, 8) == [4, 4]
    assert sizes(micro, 8, most=6) == [4, 4], "also what the program asked for"
    assert micro.halve(FULL, [torch.arange(3)])
    assert not micro.halve(FULL, [torch.arange(1)]), "it will not fit"
    assert not micro.halve(ValueError("x"), [torch.arange(8)])


def test_a_unit_is_never_halved() -> None:
    micro, units = MicroBatch(Portable()), [torch.arange(4), torch.arange(3)]
    with pytest.raises(Mistake, match="step 7: memory ran out, and a unit of 4 samples"):
        micro.require_room(FULL, 7, units)
    micro.require_room(FULL, 7, None)
    micro.require_room(ValueError("x"), 7, units)


@pytest.mark.parametrize(
    "error, found",
    [
        (FULL, True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("out of luck"), False),
        (MemoryError(), False),  # of the program's own arrays
    ],
)
def test_what_says_that_memory_is_exhausted(error: BaseException, found: bool) -> None:
    assert ran_out(error) is found


@pytest.mark.parametrize("devices, fits", [((7, 7, 7), 16), ((7, 8, 7), 12)])
def test_all_ranks_go_by_the_same_numbers(devices: tuple[int, ...], fits: int) -> None:
    told = zip((16, 12, 0), (0, 6, 8), devices, strict=True)
    agreed = Agreement(tuple(Holding(5, True, fits=f, cap=c, device=d) for f, c, d in told))
    assert (agreed.fits, agreed.cap) == (fits, 6)


def loop(log: list[Any], room: int = 99, die_in: int = 0, most: int | None = None) -> None:
    """A loop on a device that has room for so many samples; logs parts, and at last the weights."""
    from trainer import elastic

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    state = elastic.State(model=model, optimizer=optimizer)
    for step in elastic.steps(state, elastic.batches(SAMPLES, BATCH), epochs=2):
        parts = []
        with step:
            for part in step.split(most):
                parts.append(len(part))
                if len(part) > room:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                if step.number == die_in:
                    os.kill(os.getpid(), signal.SIGKILL)
                loss = (model(X[part]) - X[part].sin()).square().sum() / step.batch_size
                step.add(loss=loss)
                loss.backward()
            optimizer.step()
        log.append((step.number, step.applied, parts))
    log.append([float(one) for p in model.parameters() for one in p.detach().flatten()])


def logged(**how: Any) -> list[Any]:
    log: list[Any] = []
    loop(log, **how)
    return log


def test_a_smaller_world_takes_its_larger_shares_in_parts_that_fitted() -> None:
    dies = functools.partial(loop, die_in=4)
    fits = functools.partial(loop, room=6)
    with workers(_follow, [fits], [dies]) as (one, other):
        with formed(1, [one, other]):
            one.until(Stopped)
        with formed(2, [one]):
            one.until(Done)
        log = one.exit().log
    assert [entry[2] for entry in log[:-1] if entry[1]] == [[6]] * 3 + [[6, 6]] * 5
    assert log[-1] == pytest.approx(alone(logged)[-1], rel=1e-9)


@pytest.mark.parametrize("most", [None, 10])
def test_when_memory_runs_out_the_step_is_taken_again_in_smaller_parts(most: int | None) -> None:
    log = alone(functools.partial(logged, room=5, most=most))
    tries = [parts for number, applied, parts in log[:-1] if not applied]
    assert tries == ([[12], [6]] if most is None else [[10]])
    assert all(max(parts) <= 5 for _, applied, parts in log[:-1] if applied)
    assert [number for number, applied, _ in log[:-1] if applied] == list(range(1, 9))
    assert log[-1] == pytest.approx(alone(logged)[-1], rel=1e-9)


def test_a_sample_that_does_not_fit_is_the_programs_error() -> None:
    (only,) = trained(1, functools.partial(loop, room=0))
    assert only.error == "OutOfMemoryError: CUDA out of memory"
    assert [parts for _, _, parts in only.log] == [[12], [6], [3]]


def test_when_one_rank_runs_out_of_memory_all_take_smaller_parts() -> None:
    tight, wide = functools.partial(loop, room=3), functools.partial(loop)
    with workers(_follow, [tight], [wide]) as two:
        with formed(1, two):
            assert two[0].until(Stopped).failed == "rank 0 takes smaller parts: CUDA out of memory"
            two[1].until(Stopped)
        with formed(2, two):
            two[0].until(Done)
        logs = [one.exit().log for one in two]
    for log in logs:
        assert [entry for entry in log if isinstance(entry, tuple) and entry[1]] == [
            (number, True, [3, 3]) for number in range(1, 9)
        ]
    assert logs[0][-1] == pytest.approx(alone(logged)[-1], rel=1e-9)
