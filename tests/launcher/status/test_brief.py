"""What is shown of a run by the gist of its events is what all its events show."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from launcher.status.history import History
from launcher.status.status import build_status
from launcher.views.live import Scene
from tests.launcher.status.events import RIDE, A, event, first, formed, resumed
from trainer.rundir.events import Event
from trainer.rundir.gist import gist

NUMBERS = st.sampled_from([1.0, 1.0, 1.0, "nan", "inf"])
NO_LEDGER: dict[str, Any] = {"seconds": {}}
CUTS = st.lists(st.integers(0, 400), max_size=4)


@st.composite
def trained(draw: st.DrawFn) -> list[Event]:
    """A run through some worlds, each of which begins where one before it was, or further back."""
    events: list[Event] = []
    now, done = 100.0, 0
    for generation in range(1, draw(st.integers(1, 4)) + 1):
        start = max(0, done - draw(st.integers(0, 6)))
        events += [
            formed(generation, now, draw(st.sampled_from(["start", "drain", "loss"])), [A]),
            resumed(generation, now, "grow", start, lost_steps=done - start, seconds=1.0),
        ]
        took = draw(st.sampled_from([0.25, 100.0]))  # a step of this world
        done = start
        for number in range(draw(st.integers(0, 8))):
            count = draw(st.integers(1, 5))
            values = [draw(NUMBERS) for _ in range(count)]
            timed = count if number else count - 1  # the first step of a world takes none
            now += took * count
            if not number:
                events.append(first(generation, now - took * timed, start + 1, took))
            metrics = {"loss": values, **({"rare": values} if draw(st.booleans()) else {})}
            fields: dict[str, Any] = {"count": count, "seconds": took * timed, "age": 0.0}
            events.append(
                event(
                    "steps",
                    now,
                    generation=generation,
                    first=done + 1,
                    metrics=metrics,
                    total_steps=1000,
                    **fields,
                )
            )
            done += count
        if draw(st.booleans()):
            events.append(event("evaluated", now, step=done, metrics={"accuracy": 0.5}))
        now += draw(st.sampled_from([1.0, 50.0]))
    return events


@st.composite
def scripted(draw: st.DrawFn) -> list[Event]:
    """A torchrun script that reports now and then, and goes back when its world changes."""
    events: list[Event] = []
    now, step, stride = 100.0, 0, draw(st.sampled_from([1, 10]))
    for generation in range(1, draw(st.integers(1, 3)) + 1):
        step = max(0, step - stride * draw(st.integers(0, 3)))
        events += [
            formed(generation, now, "loss", [A]),
            event("resumed", now, generation=generation, cause="loss"),
        ]
        for _ in range(draw(st.integers(0, 12))):
            now += 90.0
            step += stride
            events.append(
                event(
                    "steps",
                    now,
                    generation=generation,
                    first=step,
                    count=0,
                    seconds=0.0,
                    age=0.0,
                    metrics={"loss": [draw(NUMBERS)]},
                )
            )
        now += 30.0
    return events


def briefly(events: list[Event], cuts: list[int]) -> list[Event]:
    """The same run as it is read back: gists of segments, cut anywhere, and some batches."""
    *segments, batches = [
        events[begin:end]
        for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(events)], strict=True)
    ]
    told = [one for segment in segments for one in gist(segment)] + batches
    return sorted(told, key=lambda one: float(one["time"]))


def assert_the_same(events: list[Event], brief: list[Event], now: float) -> None:
    found, expected = (
        build_status("one", History(of), [], None, now=now) for of in (brief, events)
    )
    assert math.isclose(found.pop("goodput") or 0.0, expected.pop("goodput") or 0.0, abs_tol=2e-4)
    own, other = found.pop("ledger") or NO_LEDGER, expected.pop("ledger") or NO_LEDGER
    for name, seconds in other["seconds"].items():
        assert math.isclose(own["seconds"][name], seconds, rel_tol=1e-6, abs_tol=0.01), name
    assert found == expected


@given(trained() | scripted(), CUTS)
def test_the_status_is_the_same(events: list[Event], cuts: list[int]) -> None:
    assert_the_same(events, briefly(events, [*cuts, len(events)]), events[-1]["time"] + 10.0)


@given(CUTS)
def test_a_ride_on_the_market_is_the_same(cuts: list[int]) -> None:
    ride = sorted(RIDE, key=lambda one: float(one["time"]))  # as they are read
    assert_the_same(ride, briefly(ride, [*cuts, len(ride)]), 150.0)


def test_the_live_view_plots_what_there_is() -> None:
    """Of a stretch of steps one loss, and all of those that are new."""
    old = [
        event("steps", 1.0 + n, generation=1, first=n, count=1, seconds=1.0, metrics={"loss": [n]})
        for n in range(1, 101)
    ]
    new = [event("steps", 200.0, generation=1, first=100, metrics={"loss": [100.0, 101.0, 102.0]})]
    scene = Scene("one", [A], 0.0)
    scene.add(gist(old))
    scene.add(new)
    assert [*scene.losses] == [100.0, 101.0, 102.0]
