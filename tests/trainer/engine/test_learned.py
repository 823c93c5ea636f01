"""What steps have shown all ranks of a world know together, whatever each of them has brought."""

from __future__ import annotations

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
)


@given(st.lists(LEARNED, min_size=1), st.randoms())
def test_what_any_has_found_all_know_and_what_all_have_evaluated(
    told: list[Learned], chance: Any
) -> None:
    together = Learned.together(told)
    assert {*together.means} == {name for one in told for name in one.means}
    assert bool(together.units) == any(one.units for one in told)
    assert together.evaluated == min(one.evaluated for one in told)
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
