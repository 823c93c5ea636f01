"""The learning rate over a run, by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.engine.mistake import Mistake
from trainer.training.schedule import Schedule


def rates(schedule: Schedule, total: int, batch: int = 8) -> list[float]:
    factor = schedule.factors(total, batch)
    return [factor(done) for done in range(total)]


def test_a_warm_up_rises_to_the_whole_rate() -> None:
    assert rates(Schedule("constant", warmup=3), 6) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_linear_and_cosine_fall_over_the_rest_of_the_run() -> None:
    assert rates(Schedule("linear", warmup=1), 5) == pytest.approx([0.5, 1, 0.75, 0.5, 0.25])
    assert rates(Schedule("cosine", floor=0.5), 4) == pytest.approx(
        [0.5 + 0.5 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)]
    )


def test_wsd_falls_at_the_end_alone() -> None:
    found = rates(Schedule("wsd", warmup=1, decay=2, floor=0.2), 6)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 0.6])
    assert rates(Schedule.of("wsd"), 20) == pytest.approx([1.0] * 19 + [0.5])


def test_it_can_be_counted_in_samples() -> None:
    by_samples = Schedule("wsd", warmup=16, decay=32, counted_in="samples")
    assert rates(by_samples, 10, batch=8) == rates(Schedule("wsd", warmup=2, decay=4), 10)


@given(
    st.sampled_from(["constant", "linear", "cosine", "wsd"]),
    st.integers(1, 200),
    st.floats(0, 1),
    st.data(),
)
def test_it_never_leaves_its_bounds(shape: Any, total: int, floor: float, drawn: Any) -> None:
    warmup = drawn.draw(st.integers(0, total * 9 // 10))
    found = rates(Schedule(shape, warmup=warmup, floor=floor), total)
    assert all(0 < one <= 1 for one in found[:warmup])
    assert all(floor - 1e-12 <= one <= 1 for one in found[warmup:])
    assert found[warmup] == 1


@pytest.mark.parametrize(
    "fields, error",
    [
        ({"shape": "cosin"}, "shape is 'cosin'; write constant, linear, cosine or wsd"),
        ({"counted_in": "epochs"}, "counted_in is 'epochs'; write steps or samples"),
        ({"warmup": -1}, "warmup is -1; write 0 or more steps"),
        ({"warmup": math.nan}, "warmup is nan; write 0 or more steps"),
        ({"floor": 2}, "floor is 2; it is a factor from 0 to 1"),
        ({"decay": 10}, "decay is for wsd alone, and the shape is cosine"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(Mistake) as caught:
        Schedule(**fields)
    assert str(caught.value).startswith(f"the schedule of the learning rate: {error}")


def test_one_that_is_longer_than_the_run_is_refused() -> None:
    with pytest.raises(Mistake, match="its warm-up and decay take 12 steps, and the run has 10"):
        Schedule("wsd", warmup=7, decay=5).factors(10, 8)
