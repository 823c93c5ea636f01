"""What steps have shown all ranks of a world know together, whatever each of them has brought."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.conformance.journey import Stage
from tests.trainer.engine.loops import trained, travelled
from tests.trainer.engine.plain import data
from trainer.engine.learned import Learned

LEARNED = st.builds(
    Learned,
    st.lists(st.sampled_from("abcd"), unique=True).map(sorted).map(tuple),
    st.sampled_from(["", "random numbers", "batch statistics"]),
    st.integers(0, 9),
    st.booleans(),
)


@given(st.lists(LEARNED, min_size=1), st.randoms())
def test_what_any_has_found_all_know_and_what_all_have_evaluated(
    told: list[Learned], chance: Any
) -> None:
    together = Learned.together(told)
    assert {*together.means} == {name for one in told for name in one.means}
    assert bool(together.units) == any(one.units for one in told)
    assert together.evaluated == min(one.evaluated for one in told)
    assert together.stops == any(one.stops for one in told), "whoever knows it says so"
    chance.shuffle(told)
    assert Learned.together(told) == together, "on every rank, in whatever order"


@given(LEARNED, LEARNED)
def test_it_travels_and_its_number_tells_it_apart(one: Learned, other: Learned) -> None:
    assert Learned.of(one.plain) == one
    assert (one.number == other.number) == (one == other)
    assert Learned.of(None) == Learned()


def half_told(log: list[Any]) -> None:
    """A rank is lost while the others tell each other: one of them knows, and one does not."""
    from trainer import elastic

    x, y = data(8)
    torch.manual_seed(0)
    model = nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    state = elastic.State(model=model, optimizer=optimizer)
    for step in elastic.steps(state, elastic.batches(8, 4), epochs=2):
        with step:
            for part in step.split(None):
                off = model(x[part]) - y[part]
                if step.number > 2:
                    step.measure(off=(off.abs().sum(), len(part)))
                (off.square().sum() / step.batch_size).backward()
            optimizer.step()
        log.append((step.number, step.applied, step.metrics.get("off")))
        if step.number == 2 and step.rank == 1:
            state.learned = state.learned.found(Learned(("off",)))


def test_a_rank_that_knows_more_tells_the_others_when_a_world_forms() -> None:
    (lone,) = trained(1, half_told)
    assert [entry[:2] for entry in lone.log][2:] == [(3, False), (3, True), (4, True)]
    outcomes = travelled([Stage((0, 1), 1, 2, asks=0), Stage((0, 1), 3)], half_told)
    for outcome in outcomes.values():
        assert outcome.error == ""
        assert [entry[:2] for entry in outcome.log] == [(n, True) for n in (1, 2, 3, 4)]
        assert [entry[2] for entry in outcome.log[2:]] == pytest.approx(
            [entry[2] for entry in lone.log[3:]], rel=1e-9
        )


def summed_already(log: list[Any]) -> None:
    from trainer import elastic

    model = nn.Linear(4, 1).double()
    for step in elastic.steps(elastic.State(model=model), elastic.batches(8, 4), epochs=1):
        with step:
            step.measure(loss=(1.0, 1))


def test_a_mean_cannot_have_the_name_of_a_sum() -> None:
    (outcome,) = trained(1, summed_already)
    assert (
        outcome.error
        == "ValueError: 'loss' is a sum already, for add(); give the mean another name"
    )


def changing(log: list[Any], measures_from: int) -> None:
    """The program changes this and that by itself: before the sums, after the update and the block.

    It has a new mean in a step, which shows it; so that step comes again.
    """
    from trainer import elastic

    x, y = data(8)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    state = elastic.State(model=model, optimizer=optimizer, begun=0, followed=0)
    for step in elastic.steps(state, elastic.batches(8, 4), epochs=2):
        with step:
            state.begun += 1
            with torch.no_grad():
                next(model.parameters()).mul_(0.9)
            for part in step.split(None):
                off = model(x[part]) - y[part]
                if step.number >= measures_from:
                    step.measure(off=(off.detach().abs().sum(), len(part)))
                (off.square().sum() / step.batch_size).backward()
            optimizer.step()
        state.followed += 1
        optimizer.param_groups[0]["lr"] *= 0.5
        log.append((step.number, step.applied))
    log.append((state.begun, state.followed, optimizer.param_groups[0]["lr"]))
    log.append([value.tolist() for value in model.state_dict().values()])


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("measures_from", [1, 3])
def test_what_the_program_changes_in_a_step_that_comes_again_is_put_back(
    size: int, measures_from: int
) -> None:
    first, *_ = trained(size, functools.partial(changing, measures_from=measures_from))
    plain, *_ = trained(size, functools.partial(changing, measures_from=9))
    assert first.error == plain.error == ""
    *steps, once, model = first.log
    assert steps.count((measures_from, False)) == 1, "it came again"
    assert [one for one in steps if one[1]] == [(n, True) for n in (1, 2, 3, 4)]
    assert [once, model] == plain.log[-2:], "to the bit"
