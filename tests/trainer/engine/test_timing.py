"""What ranks spend their time on: each measures itself, and all of it adds up."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.engine.extras import Extras, Head
from trainer.engine.replicas import Told
from trainer.engine.timing import SLOWEST, TOLD, WINDOW, Ranks, Stopwatch, Times, Timing


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def rows(*timings: Timing) -> list[float]:
    return [number for one in timings for number in one]


def test_a_rank_tells_what_it_did_since_the_sum_before_and_knows_how_long_it_waited() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 3.0
    with watch.timing("evaluation"):
        clock.now += 2.0
    with watch.timing("checkpoint"):
        clock.now += 0.5
    clock.now += 1.0
    assert watch.complete(data_wait=0.25) == Timing(6.5, 0.25, 2.0, 0.5)
    clock.now += 0.125
    watch.summed()
    assert (watch.own, watch.waited) == (6.5, 0.125)
    clock.now += 1.0
    assert watch.complete() == Timing(1.0), "all else is forgotten"


def test_what_a_program_does_after_a_block_counts_once_however_often_it_says_so() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    watch.lap()
    clock.now += 1.0
    watch.took("evaluation")
    with watch.timing("evaluation"):
        clock.now += 2.0
        watch.took("evaluation")
        clock.now += 4.0
    assert watch.complete() == Timing(7.0, 0.0, 7.0)


def test_time_in_another_world_is_nobodys() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.timing("evaluation"):
        clock.now += 9.0
    watch.complete()
    clock.now += 50.0  # the sum never came
    watch.enter()
    clock.now += 1.0
    assert watch.complete() == Timing(1.0)


def step_of(times: Times, clock: Clock, waited: float, *told: Timing) -> None:
    """A step in which this rank, the first of ``told``, waited so long for the sum."""
    clock.now += told[0].own
    times.own.complete()
    clock.now += waited
    times.own.summed()
    times.told(rows(*told))


def test_whoever_comes_last_shows_what_communication_takes_and_others_wait_for_it() -> None:
    clock = Clock()
    times = Times(clock)
    step_of(times, clock, 9.0, Timing(1.0), Timing(3.0), Timing(1.5))
    assert times.take() == {}, "a first step is no measure"
    step_of(times, clock, 2.25, Timing(1.0), Timing(3.0, data_wait=2.0), Timing(1.5))
    assert times.take() == {
        "all": 9.75,
        "data_wait": 2.0,
        "evaluation": 0.0,
        "checkpoint": 0.0,
        "communication": 0.75,
        "waiting": 3.5,
    }
    assert times.take() == {}


def test_an_evaluation_is_told_of_with_the_step_that_has_waited_for_it() -> None:
    clock = Clock()
    times = Times(clock)
    for evaluated in (0.0, 0.0, 5.0, 0.0):
        step_of(times, clock, 0.0, *[Timing(1.0 + evaluated, evaluation=evaluated)] * 2)
        found = times.take()
        assert found.get("evaluation", 0.0) == 2 * evaluated
        assert found.get("all", 2 * (1.0 + evaluated)) == 2 * (1.0 + evaluated)


def test_a_sum_that_comes_before_the_last_can_have_it_is_no_negative_communication() -> None:
    clock = Clock()
    times = Times(clock)
    for _ in range(2):
        step_of(times, clock, 0.5, Timing(1.0), Timing(2.0))
    assert times.take()["communication"] == 0.0


def test_a_world_of_other_ranks_begins_anew() -> None:
    clock = Clock()
    times = Times(clock)
    step_of(times, clock, 0.0, Timing(1.0), Timing(3.0))
    times.enter()
    step_of(times, clock, 9.0, Timing(1.0))
    assert times.take() == {}
    step_of(times, clock, 0.5, Timing(1.0))
    assert times.take()["all"] == 1.5


seconds = st.floats(0, 1e4)
timings = st.builds(
    lambda compute, data, evaluation, checkpoint: Timing(
        compute + data + evaluation + checkpoint, data, evaluation, checkpoint
    ),
    *[seconds] * 4,
)


@given(
    st.integers(1, 5).flatmap(
        lambda size: st.lists(
            st.tuples(seconds, st.lists(timings, min_size=size, max_size=size)), max_size=6
        )
    )
)
def test_accounts_are_parts_of_all_and_none_is_negative(
    told: list[tuple[float, list[Timing]]],
) -> None:
    clock = Clock()
    times = Times(clock)
    for waited, step in told:
        step_of(times, clock, waited, *step)
    accounts = dict(times.take())
    total = accounts.pop("all", 0.0)
    assert all(one >= 0 for one in accounts.values())
    assert sum(accounts.values()) <= total * (1 + 1e-9) + 1e-6
    sums = (max(one.own for one in step) * len(step) for _, step in told[1:])
    assert total == pytest.approx(sum(sums) + accounts.get("communication", 0.0), rel=1e-9)


def test_what_each_rank_spends_is_told_every_few_seconds() -> None:
    clock, found = Clock(), []
    times = Times(clock)
    for _ in range(13):
        step_of(times, clock, 0.5, Timing(3.0, 1.0, samples=4.0), Timing(0.5, samples=2.0))
        found.append(times.ranks())
    ranks, *_ = filter(None, found)
    assert ranks.seconds >= WINDOW > ranks.seconds - 3.5
    assert ranks.computed == [2.0 * ranks.steps, 0.5 * ranks.steps], "without the first step"
    assert ranks.data_wait == [ranks.steps, 0.0]
    assert ranks.waited == [0.0, 2.5 * ranks.steps]
    assert ranks.samples == [4.0 * ranks.steps, 2.0 * ranks.steps]


def test_of_a_large_world_the_slowest_ranks_are_told_of() -> None:
    small = Ranks(3, 10.0, [1.0] * TOLD, [0.0] * TOLD, [0.0] * TOLD).to_fields()
    assert small["ranks"] == list(range(TOLD))
    count = TOLD + 1
    computed = [1.0] * count
    computed[7] = 2.0
    waits = [0.0] * count
    waits[60] = 3.0
    large = Ranks(3, 10.0, computed, waits, [0.5] * count).to_fields()
    ranks = large["ranks"]
    assert isinstance(ranks, list) and len(ranks) == SLOWEST and {7, 60} <= set(ranks)
    assert large["median"] == {"computed": 1.0, "data_wait": 0.0}
    assert isinstance(large["computed"], list) and large["computed"][ranks.index(7)] == 2.0


def test_each_ranks_times_arrive_as_they_were_told() -> None:
    extras, told = Extras(metrics=1, statistics=2, size=3), []
    for rank in range(3):
        timing = Timing(float(rank), 0.5, 0.25, 0.125, 4.0)
        told.append(extras.written(Head(), [1.0], [2.0, 3.0], rank, Told(samples=rank), timing))
    assert {len(one) for one in told} == {extras.length}
    read = extras.read([sum(column) for column in zip(*told, strict=True)])
    assert read.times == rows(*(Timing(float(rank), 0.5, 0.25, 0.125, 4.0) for rank in range(3)))
    assert read.norms == [0.0] * 3
    assert [one.samples for one in read.told] == [0, 1, 2]


STEPS, EVALUATED = 12, 5
ROUNDED = 1e-3  # seconds: what is told has few digits


class Slow:
    """A data set whose samples take time, by its own measure."""

    def __init__(self) -> None:
        self.took = 0.0

    def __getitem__(self, index: int) -> torch.Tensor:
        began = time.perf_counter()
        time.sleep(0.01)
        self.took += time.perf_counter() - began
        return torch.ones(1)


Bounds = tuple[float, float]  # at least, and at most, in seconds


class Stamps:
    """When a stopwatch was told that gradients are complete, and summed, by a clock beside it.

    Attributes:
        own: of each step but the first, between what limits its own time is.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self.own: list[Bounds] = []
        self._summed: Bounds | None = None  # of the step before: just before, and just after
        self._complete, self._sum = watch.complete, watch.summed
        watch.complete = self.complete  # type: ignore[method-assign]
        watch.summed = self.summed  # type: ignore[method-assign]

    def complete(self, data_wait: float = 0.0, samples: int = 0) -> Timing:
        before = time.perf_counter()
        told = self._complete(data_wait, samples)
        after = time.perf_counter()
        if self._summed is not None:
            self.own.append((before - self._summed[1], after - self._summed[0]))
        return told

    def summed(self) -> None:
        before = time.perf_counter()
        self._sum()
        self._summed = before, time.perf_counter()


def measured(channel: Any, slow: bool) -> tuple[dict[str, float], list[Bounds]]:
    """A loop that writes down what it spends its time on; without its first step."""
    from trainer.engine.data import Order
    from trainer.engine.state import State
    from trainer.engine.steps import Steps
    from trainer.engine.supply import Supply
    from trainer.protocol.session import Session
    from trainer.training.fetch import Collated

    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data, took = Slow(), dict.fromkeys(("data_wait", "evaluation"), 0.0)
    supply = Supply(Collated(data, torch.stack))
    state, order = State(model=model, optimizer=optimizer), Order(4 * STEPS, 4, 0)
    loop = Steps(state, order, STEPS, channel, Session(), (), 0, supply=supply)
    for step in loop:
        with step:
            loss = model(step.batch).square().sum() / step.batch_size
            if step.number == 1:
                data.took = 0.0
                stamps = Stamps(loop.stopwatch)
            took["data_wait"] = data.took
            if slow:
                time.sleep(0.05)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if step.number == EVALUATED:
            began = time.perf_counter()
            time.sleep(0.1)
            loop.report({"accuracy": 1.0})
            took["evaluation"] += time.perf_counter() - began
    if loop.complete:
        loop.done()
    return took, stamps.own


def test_the_ranks_of_a_world_tell_what_they_have_done_by_their_own_measure() -> None:
    from tests.trainer.ranks import formed, workers
    from trainer.protocol import messages

    accounts: Counter[str] = Counter()
    with workers(measured, [False], [True]) as two:
        with formed(1, two):
            while not isinstance(message := two[0].receive(), messages.Done):
                if isinstance(message, messages.Steps):
                    accounts.update(message.accounts or {})
        (fast, fast_own), (slow, slow_own) = two[0].exit(), two[1].exit()
    for name in ("data_wait", "evaluation"):
        own = fast[name] + slow[name]
        assert accounts[name] == pytest.approx(own, rel=0.1, abs=0.02), name
    assert accounts["checkpoint"] == pytest.approx(0.0, abs=0.02)
    # On a busy machine now the one waits and now the other: of each step, for how long.
    least = most = 0.0
    assert len(fast_own) == len(slow_own) == STEPS - 1
    for steps in zip(fast_own, slow_own, strict=True):
        low, high = zip(*steps, strict=True)
        least += max(0.0, 2 * max(low) - sum(high))
        most += 2 * max(high) - sum(low)
    assert least - ROUNDED <= accounts["waiting"] <= most + ROUNDED
    assert sum(accounts.values()) <= 2 * accounts["all"]
