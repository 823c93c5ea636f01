"""Whoever looks after a run with controllers is killed at any point at which it touches the world.

A launch and two controllers, the second of which takes over before the timeout of the first: see
``test_supervisor_crashes`` for what a point is. A controller that is killed is started again by
Vertex AI; a launch is not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest

from tests.launcher.supervision.controlled import Controlled, Killed
from tests.launcher.supervision.test_supervisor_crashes import (
    Points,
    begun,
    check,
    points,
    scenario,
    touched,
)

__all__ = ["points"]  # the fixture
MOST_POINTS = 4000
STRIDE = 37  # of the points in the suite


def kill() -> None:
    raise Killed


def play(path: Path, use: Callable[[Points | None], None], point: Points, acts: bool) -> Controlled:
    fixture = begun(path, scenario)
    world = Controlled(fixture, partial(touched, point), timeout=240.0, acts=acts)
    use(point)
    try:
        world.take_turns()
    finally:
        use(None)
    return world


def look_at(world: Controlled, why: str) -> None:
    check(world.fixture, "succeeded", why, late=True)
    vertex = world.fixture.vertex
    assert all(job.state.ended for job in vertex.controllers.values()), why
    recorded = len(world.numbers)
    assert len(vertex.controllers) <= recorded, f"{why}: two of a number"
    assert not world.deserted, why
    # Who has acted, and was followed by another, does not act again.
    turns = [name for name, _ in groupby(world.order)]
    assert len(turns) == len({*turns}), f"{why}: {turns}"


def test_nobody_is_killed(tmp_path: Path, points: Callable[[Points | None], None]) -> None:
    world = play(tmp_path / "run", points, Points(None, after=False), acts=False)
    look_at(world, "nobody is killed")
    assert len(world.numbers) >= 2, "one has taken over before the timeout of the other"
    assert len({*world.order}) >= 2


@pytest.mark.parametrize("acts", [False, True], ids=["looks on", "acts, too"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "stride", [STRIDE, pytest.param(1, marks=pytest.mark.soak)], ids=["some", "all"]
)
def test_killed_once(
    tmp_path: Path,
    points: Callable[[Points | None], None],
    acts: bool,
    after: bool,
    stride: int,
) -> None:
    hit: set[str] = set()
    for at in range(1 + stride // 2, MOST_POINTS, stride):
        point = Points(at, after, happens=kill)
        world = play(tmp_path / str(at), points, point, acts)
        look_at(world, f"killed at point {at}, {point.hit}")
        if not point.hit:
            break  # there are no more points
        hit.add(point.hit.split()[0])
    else:
        raise AssertionError("the scenario has more points than expected")
    kinds = {"submit", "get", "create", "write", "read", "names"}
    assert hit >= kinds if stride == 1 else len(hit) > 1
