"""What a run's events say as curves."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.rundir.batches import Event
from trainer.telemetry.curves import Curves, Point


def steps(first: int, *losses: float | str, generation: int = 1, **more: object) -> Event:
    told = {"first": first, "count": len(losses), "metrics": {"loss": list(losses)}}
    return {"event": "steps", "time": 100.0, "generation": generation, **told, **more}


def losses(points: list[Point]) -> list[tuple[int, float]]:
    return [(it.step, it.values["train/loss"]) for it in points if "train/loss" in it.values]


def test_each_step_is_a_point_at_its_own_time() -> None:
    points = list(Curves().take([steps(1, 3.0, 2.0, 1.0, seconds=1.5, age=4.0)]))
    assert losses(points) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert [point.time for point in points] == [95.0, 95.5, 96.0]


def test_how_fast_the_steps_were_stands_at_the_last_of_them() -> None:
    events = [
        {"event": "resumed", "time": 1.0, "step": 0, "world_size": 4, "seconds": 0.5},
        {"event": "rates", "time": 1.0, "flops": 10.0},
        steps(1, 2.0, 1.0, seconds=0.5, samples=64, accounts={"all": 4.0, "data_wait": 1.0}),
    ]
    formed, said, first, last = Curves().take(events)
    assert formed.values == {"time/re_forming_seconds": 0.5} and said.texts.keys() == {"resumed"}
    assert "world/size" not in first.values
    assert last.values == {
        "train/loss": 1.0,
        "world/generation": 1.0,
        "world/size": 4.0,
        "rate/steps_per_second": 4.0,
        "rate/samples_per_second": 128.0,
        "rate/flops_per_second": 1280.0,
        "time/part_data_wait": 0.25,
    }


def test_a_metric_of_some_steps_belongs_to_the_last_of_them() -> None:
    event = steps(1, 3.0, 2.0, 1.0)
    event["metrics"]["norm"] = [9.0]
    points = list(Curves().take([event]))
    assert ["train/norm" in point.values for point in points] == [False, False, True]


def test_what_is_no_number_is_told_as_such() -> None:
    (point,) = Curves().take([steps(1, "nan")])
    assert math.isnan(point.values["train/loss"])


def test_a_step_that_is_reported_twice_is_told_once() -> None:
    points = list(Curves().take([steps(1, 3.0, 2.0), steps(2, 2.0, 1.0)]))
    assert losses(points) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert not any(point.again for point in points)


def test_a_world_that_goes_back_has_its_steps_told_anew() -> None:
    points = list(Curves().take([steps(1, 3.0, 2.0, 1.0), steps(2, 9.0, 8.0, generation=2)]))
    assert losses(points) == [(1, 3.0), (2, 2.0), (3, 1.0), (2, 9.0), (3, 8.0)]
    assert [(point.step, point.again) for point in points if point.again] == [(2, True)]


def test_a_world_that_goes_on_has_not() -> None:
    points = list(Curves().take([steps(1, 3.0, 2.0), steps(3, 1.0, generation=2)]))
    assert losses(points) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert not any(point.again for point in points)


def test_what_a_former_world_says_late_does_not_count() -> None:
    curves = Curves()
    assert losses(list(curves.take([steps(1, 3.0), steps(2, 2.0, generation=2)]))) == [
        (1, 3.0),
        (2, 2.0),
    ]
    assert list(curves.take([steps(2, 7.0, 7.0, generation=1)])) == []


def test_an_evaluation_is_a_curve_of_its_own() -> None:
    event = {"event": "evaluated", "time": 5.0, "step": 7, "seconds": 2.0, "metrics": {"loss": 1.0}}
    (point,) = Curves().take([event])
    assert (point.step, point.values) == (7, {"eval/loss": 1.0, "time/eval_seconds": 2.0})


def test_what_happens_is_told_at_the_furthest_step_and_never_taken_back() -> None:
    loss = {"event": "loss", "time": 101.0, "member": "workerpool1-0", "reason": "no word of it"}
    again = steps(1, 9.0, generation=2)
    *_, told = Curves().take([steps(1, 3.0, 2.0), again, loss])
    assert told.step == 2 and told.values == {}
    assert told.texts == {"loss": "**loss**\n\n- member: workerpool1-0\n- reason: no word of it"}


@pytest.mark.parametrize(
    "event",
    [
        {"event": "steps", "time": 1.0},
        {"event": "steps", "time": 1.0, "first": True, "metrics": {"loss": [1.0]}},
        {"event": "steps", "time": 1.0, "first": 1, "metrics": [1.0]},
        {"event": "evaluated", "time": 1.0, "step": -1, "metrics": {"a": 1}},
        {"event": "evaluated", "time": 1.0, "step": 1, "metrics": {"a": "x"}},
        {"event": "what nobody knows", "time": 1.0},
    ],
)
def test_what_is_not_as_documented_tells_nothing(event: Event) -> None:
    assert list(Curves().take([event])) == []


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=30),
    st.integers(0, 30),
)
def test_whoever_goes_on_tells_the_same_as_one_alone(starts: list[int], cut: int) -> None:
    """Worlds begin where they may, and another teller takes over anywhere."""
    events = [steps(first, 1.0, 2.0, generation=g) for g, first in enumerate(starts)]
    whole = list(Curves().take(events))
    first = Curves()
    told = list(first.take(events[:cut]))
    second = Curves.from_json(json.loads(json.dumps(first.to_json())))
    assert [*told, *second.take(events[cut:])] == whole


@pytest.mark.parametrize("value", [None, [], {}, {"step": 1}, {**Curves().to_json(), "step": "1"}])
def test_what_are_no_curves_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="no curves"):
        Curves.from_json(value)
