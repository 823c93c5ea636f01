"""Metrics of steps: each told once, by whoever is rank 0."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.engine.progress import REMEMBERED, Batch, StepLog


def log_of(*steps: tuple[int, int]) -> StepLog:
    """A log of (generation, step), the loss of a step being a tenth of its number."""
    log = StepLog()
    for generation, step in steps:
        log.add(generation, step, {"loss": step / 10})
    return log


def test_consecutive_steps_of_a_generation_are_one_batch() -> None:
    assert log_of((1, 1), (1, 2), (1, 3)).take() == [Batch(1, 1, {"loss": [0.1, 0.2, 0.3]})]


def test_what_was_told_is_forgotten() -> None:
    log = log_of((1, 1))
    log.take()
    assert log.take() == []
    log.add(1, 2, {"loss": 0.2})
    assert log.take() == [Batch(1, 2, {"loss": [0.2]})]


def test_another_generation_a_gap_or_other_metrics_begin_a_batch() -> None:
    log = log_of((1, 1), (2, 2), (2, 4))
    log.add(2, 5, {"loss": 0.5, "norm": 1.0})
    assert log.take() == [
        Batch(1, 1, {"loss": [0.1]}),
        Batch(2, 2, {"loss": [0.2]}),
        Batch(2, 4, {"loss": [0.4]}),
        Batch(2, 5, {"loss": [0.5], "norm": [1.0]}),
    ]


def test_steps_that_the_world_does_again_are_dropped() -> None:
    log = log_of((1, 7), (1, 8), (1, 9))
    log.forget_after(7)
    log.add(2, 8, {"loss": 0.8})
    assert log.take() == [Batch(1, 7, {"loss": [0.7]}), Batch(2, 8, {"loss": [0.8]})]


def test_only_the_newest_are_remembered() -> None:
    (batch,) = log_of(*((1, step) for step in range(1, REMEMBERED + 11))).take()
    assert batch.first == 11
    assert len(batch.metrics["loss"]) == REMEMBERED


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9), st.booleans())))
def test_nothing_is_lost_or_told_twice(steps: list[tuple[int, int, bool]]) -> None:
    log = StepLog()
    told: list[tuple[int, int, float]] = []

    def tell() -> None:
        for batch in log.take():
            for number, loss in enumerate(batch.metrics["loss"], batch.first):
                told.append((batch.generation, number, loss))

    for generation, step, then_tell in steps:
        log.add(generation, step, {"loss": float(step)})
        if then_tell:
            tell()
    tell()
    assert told == [(generation, step, float(step)) for generation, step, _ in steps]
