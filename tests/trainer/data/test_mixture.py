"""A mixture: how often each data set comes, and that of each all samples come once in a pass."""

from __future__ import annotations

import functools
import pickle
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.conformance.journey import Stage
from tests.trainer.engine.loops import travelled
from trainer.data import Mixture
from trainer.data.mixture import OtherMixture, apportioned
from trainer.rundir.usererror import Unusable

WEIGHTS = st.lists(st.floats(0.05, 10), min_size=1, max_size=5)


@given(WEIGHTS, st.integers(300, 2000))
def test_parts_sum_up_and_are_off_by_less_than_one_sample(weights: list[float], total: int) -> None:
    named = {str(number): weight for number, weight in enumerate(weights)}
    found = apportioned(named, total)
    assert sum(found.values()) == total
    for name, weight in named.items():
        assert abs(found[name] - weight / sum(weights) * total) < 1


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=4),
    st.integers(0, 9),
    st.integers(20, 60),
    st.integers(0, 200),
)
def test_each_sample_of_a_source_comes_once_in_a_pass_wherever_one_begins(
    sources: list[tuple[int, int]], seed: int, block: int, start: int
) -> None:
    lengths = {f"s{n}": length for n, (length, _) in enumerate(sources)}
    weights = {f"s{n}": weight for n, (_, weight) in enumerate(sources)}
    mixture = Mixture({n: range(length) for n, length in lengths.items()}, weights, seed, block)
    found = [mixture.source_of(place) for place in range(5 * block)]
    for at in range(0, 5 * block, block):
        assert Counter(name for name, _ in found[at : at + block]) == mixture.counts
    for name, length in lengths.items():
        own = [index for one, index in found if one == name]
        for begin in range(0, len(own) - length + 1, length):
            assert sorted(own[begin : begin + length]) == list(range(length))
    again = pickle.loads(pickle.dumps(mixture))
    assert [again.source_of(p) for p in range(start, 5 * block)] == found[start:]
    assert [again[p] for p in range(start, 5 * block)] == [index for _, index in found[start:]]


def test_an_order_is_the_same_on_every_machine() -> None:
    # A run goes on at another place, and with another Swell: these must never change.
    mixture = Mixture({"a": range(5), "b": range(3)}, {"a": 3, "b": 1}, seed=7, block=8)
    assert [mixture.source_of(place) for place in range(10)] == [
        *(("b", 2), ("a", 2), ("a", 4), ("a", 1), ("a", 3), ("a", 0), ("b", 1), ("a", 2)),
        *(("a", 3), ("a", 1)),
    ]


@pytest.mark.parametrize(
    "sources, weights, said",
    [
        ({}, {}, "a mixture of nothing with weights of nothing"),
        ({"a": [1]}, {"b": 1}, "a mixture of a with weights of b: give each data set a weight"),
        ({"a": [1]}, {"a": 0}, "weights must be numbers above 0"),
        ({"a": [1]}, {"a": float("nan")}, "weights must be numbers above 0"),
        ({"a": [1], "b": [2]}, {"a": 1, "b": 1e-9}, "the weight of b comes to no sample"),
        ({"a": []}, {"a": 1}, "a cannot be mixed: it is empty, or has no length"),
        ({"a": iter([1])}, {"a": 1}, "a cannot be mixed: it is empty, or has no length"),
    ],
)
def test_what_cannot_be_mixed_is_refused(sources: Any, weights: Any, said: str) -> None:
    with pytest.raises(Unusable) as raised:
        Mixture(sources, weights)
    assert str(raised.value).startswith(said) and raised.value.id == "SW5189"


def test_the_remedy_of_a_weight_that_is_too_small_is_one() -> None:
    weights = {"a": 1, "b": 1e-6}
    with pytest.raises(Unusable, match="block=") as raised:
        Mixture({"a": [1], "b": [2]}, weights)
    block = int(str(raised.value).rpartition("block=")[2])
    assert Mixture({"a": [1], "b": [2]}, weights, block=block).counts["b"] >= 1


@pytest.mark.parametrize(
    "other",
    [
        Mixture({"a": range(9), "b": range(3)}, {"a": 1, "b": 2}),
        Mixture({"a": range(9), "b": range(4)}, {"a": 1, "b": 1}),
        Mixture({"a": range(9), "b": range(3)}, {"a": 1, "b": 1}, seed=1),
    ],
    ids=["weights", "length", "seed"],
)
def test_a_run_does_not_go_on_with_another_mixture(other: Mixture) -> None:
    mixture = Mixture({"a": range(9), "b": range(3)}, {"a": 1, "b": 1})
    mixture[5]
    (mark,) = mixture.marks()
    mixture.seek(mark, 5)
    with pytest.raises(OtherMixture):
        other.seek(mark, 5)


BATCH, STEPS = 6, 9
CHANGING = [Stage((0, 1, 2), last=3, dies=1), Stage((2, 0), first=3, last=6, asks=0)]


def mixed() -> Mixture:
    data = {"a": [("a", n) for n in range(20)], "b": [("b", n) for n in range(4)]}
    return Mixture(data, {"a": 2, "b": 1}, block=12)


def loop(log: list[Any]) -> None:
    from trainer import elastic

    torch.manual_seed(0)
    model = nn.Linear(1, 1).double()
    state = elastic.State(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05))
    data = mixed()
    batches = elastic.batches(data, BATCH, unit=2)
    for step in elastic.steps(state, batches, total=STEPS, data=data, workers=1):
        taken: list[tuple[str, int]] = []
        with step:
            for _ in step.split(None):
                names, numbers = step.batch
                taken += zip(names, numbers.tolist(), strict=True)
                loss = model(numbers[:, None].double()).square().sum() / step.batch_size
                step.add(loss=loss)
                loss.backward()
            state.optimizer.step()
        if step.applied:
            log.append((step.number, taken))


def test_in_worlds_that_change_each_step_takes_its_part_of_it() -> None:
    stages = [*CHANGING, Stage((0, 3, 2), first=7)]
    found: dict[int, list[tuple[str, int]]] = {}
    for outcome in travelled(stages, functools.partial(loop)).values():
        assert outcome.error == ""
        for number, taken in outcome.log:
            found.setdefault(number, []).extend(taken)
    for number in range(3, STEPS + 1):
        places = range((number - 1) * BATCH, number * BATCH)
        assert sorted(found[number]) == sorted(mixed().source_of(place) for place in places)
