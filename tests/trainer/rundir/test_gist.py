"""The gist of events: what it tells, and in how few words."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainer.rundir.batches import Event
from trainer.rundir.gist import STRETCH, gist


def steps(first: int, values: list[Any], seconds: float, at: float, **more: Any) -> Event:
    """A worker's report."""
    return {
        "event": "steps",
        "time": at,
        "generation": 1,
        "first": first,
        "count": len(values),
        "metrics": {"loss": values},
        "seconds": seconds,
        "age": 0.5,
        **more,
    }


def report(step: int, at: float, value: Any = 1.0) -> Event:
    """A script's."""
    fields = {"count": 0, "seconds": 0.0, "age": 0.0}
    metrics = {"loss": [value]}
    return {
        "event": "steps", "time": at, "generation": 1, "first": step, "metrics": metrics, **fields,
    }  # fmt: skip


def test_steps_that_follow_each_other_are_told_together() -> None:
    told = [steps(1, [5.0, 4.0], 1.0, 10.0), steps(3, [3.0], 2.0, 12.0, total_steps=9)]
    assert gist(told) == [
        {
            "event": "steps",
            "time": 12.0,
            "generation": 1,
            "first": 1,
            "count": 3,
            "metrics": {"loss": [3.0]},
            "seconds": 3.0,
            "age": 0.5,
            "total_steps": 9,
        }
    ]


def test_steps_of_other_worlds_and_steps_with_a_gap_are_told_by_themselves() -> None:
    apart = [steps(1, [1.0], 1.0, 1.0), steps(3, [1.0], 1.0, 2.0), steps(4, [1.0], 1.0, 3.0)]
    apart[2]["generation"] = 2
    assert gist(apart) == apart


def test_no_more_than_a_stretch_is_told_together() -> None:
    told = [steps(n, [1.0], STRETCH / 4, float(n)) for n in range(1, 11)]
    assert [(one["first"], one["count"]) for one in gist(told)] == [(1, 4), (5, 4), (9, 2)]


def test_everything_else_is_told_as_it_was() -> None:
    others: list[Event] = [
        {"event": "loss", "time": 1.0, "member": "a"},
        {"event": "evaluated", "time": 2.0, "step": 3, "metrics": {"loss": 1.0}},
        {"event": "steps", "time": 3.0, "metrics": "damaged"},
        {"event": "steps", "time": 4.0, "first": 1, "metrics": {}},
        {"event": "a newer one", "time": 5.0},
    ]
    assert gist(reversed(others)) == others


def test_a_metric_that_is_not_finite_any_more_is_told_from_its_first_step_on() -> None:
    told = gist([steps(1, [3.0, 2.0, "nan", "inf"], 4.0, 9.0), steps(5, ["nan"], 1.0, 10.0)])
    values = [(one["first"] + one["count"] - 1, one["metrics"]) for one in told]
    assert sorted(values, key=str) == [
        (2, {"loss": [2.0]}),
        (3, {"loss": ["nan"]}),
        (5, {"loss": ["nan"]}),
    ]


def test_the_newest_value_is_told_of_a_metric_that_is_not_always_there() -> None:
    early = steps(1, [1.0, 2.0], 1.0, 5.0)
    early["metrics"]["accuracy"] = [0.5, 0.6]
    told = gist([early, steps(3, [3.0], 1.0, 6.0)])
    assert {"accuracy": [0.6]} in [one["metrics"] for one in told]


def test_of_a_scripts_reports_few_are_left() -> None:
    told = gist([report(10 * n, float(n)) for n in range(1, 2001)])
    assert [one["first"] for one in told][:2] == [10, 20], "how far apart they are"
    assert told[-1]["first"] == 20_000
    assert len(told) <= 2 + 2000 / STRETCH + 1


def test_what_a_script_does_again_is_not_told_as_new() -> None:
    steps_told = [10, 20, 30, 40, 20, 30, 40, 50, 60]
    told = gist([report(step, float(at)) for at, step in enumerate(steps_told)])
    times = [(one["first"], one["time"]) for one in told]
    assert (40, 3.0) in times, "how far it was"
    assert (40, 6.0) in times, "when it was there again"
    assert (50, 7.0) in times


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 4), st.floats(0, 400)))
)
def test_no_step_gets_lost_and_no_second(drawn: list[tuple[int, int, int, float]]) -> None:
    """Whatever is reported, in any order, also twice."""
    told = [
        steps(first, [1.0] * count, round(seconds, 3), float(at), generation=generation)
        for at, (generation, first, count, seconds) in enumerate(drawn)
    ]
    brief = [one for one in gist(told) if "seconds" in one]

    def of(events: list[Event]) -> list[tuple[int, int]]:
        return sorted(
            (one["generation"], step)
            for one in events
            for step in range(one["first"], one["first"] + one["count"])
        )

    assert of(brief) == of(told)
    spent = abs(sum(one["seconds"] for one in brief) - sum(one["seconds"] for one in told))
    assert spent < 1e-3
