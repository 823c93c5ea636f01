"""Whoever looks after a run with controllers is killed, or stands still, wherever it touches the
world.

A launch and two controllers, the second of which takes over before the timeout of the first: see
``test_supervisor_crashes`` for what a point is. A controller that is killed is started again by
Vertex AI; a launch is not. One that stands still (a laptop that sleeps, a machine that is moved)
goes on afterwards with what it was about to do, whatever the others have done meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from random import Random

import pytest

from tests.launcher.faked_vertex import Looks
from tests.launcher.supervision.controlled import Controlled, Killed
from tests.launcher.supervision.policy_run import STOCKOUT
from tests.launcher.supervision.supervised import Fixture
from tests.launcher.supervision.test_supervisor_crashes import (
    SCENARIOS,
    Points,
    begun,
    check,
    in_turn,
    points,
    touched,
)

__all__ = ["points"]  # the fixture
Use = Callable[[Points | None], None]

MOST_POINTS = 4000
TIMEOUT = 240.0  # of a controller, in seconds
KILLED, STOOD_STILL = 83, 331  # which of the points are in the suite: the second story is longer
SEEDS = 40
SHORT, LONG = 60.0, 500.0  # seconds; after the longer ones everybody else takes one for gone


def lost_in_a_move(fixture: Fixture) -> Callable[[int], Looks]:
    """The one that trains is lost while there are no machines yet where it is to go."""
    lives: list[Looks] = [
        ["RUNNING", fixture.asking(2, "us-east4"), "RUNNING", "FAILED: preempted"],
        ["PENDING", "PENDING", f"FAILED: {STOCKOUT}"],
    ]
    return in_turn(fixture, lives)


def cancelled_in_a_move(fixture: Fixture) -> Callable[[int], Looks]:
    """Somebody cancels the run while the old job and the new one are alive."""
    lives: list[Looks] = [
        ["RUNNING", fixture.asking(1, "us-east4")],
        ["PENDING", fixture.ending("cancelled", "by somebody", "PENDING"), "RUNNING"],
    ]
    return in_turn(fixture, lives)


STORIES = {
    **SCENARIOS,
    "lost in a move": lost_in_a_move,
    "cancelled in a move": cancelled_in_a_move,
}
ENDS = {"cancelled": "cancelled", "limited": "limited", "cancelled in a move": "cancelled"}


def kill() -> None:
    raise Killed


class Story:
    """One run, in which something happens at a point.

    Args:
        path: of its directory.
        outcome: which scenario.
        acts: whether the launch looks after the run itself, beside the controllers.
        use: makes every operation on a file one of the given points.
    """

    def __init__(self, path: Path, outcome: str, acts: bool, use: Use) -> None:
        self.outcome, self._use = outcome, use
        self._fixture = begun(path, STORIES[outcome])
        self._point: Points = Points(None, after=False)
        self.world = Controlled(
            self._fixture, lambda region: touched(self._point, region), timeout=TIMEOUT, acts=acts
        )

    def play(self, point: Points) -> None:
        """Plays it to its end."""
        self._point = point
        self._use(point)
        try:
            self.world.take_turns()
        finally:
            self._use(None)

    def check(self, why: str, still: bool = False) -> None:
        """Looks at how it ended, and at what was there on the way.

        While somebody stands ``still``, the timeouts of those that came in place of others come
        near: of a controller, and of an attempt just before the end.
        """
        how = ENDS.get(self.outcome, "succeeded")
        check(self._fixture, how, why, late=True, pair=still)
        vertex = self._fixture.vertex
        assert all(job.state.ended for job in vertex.controllers.values()), why
        recorded = len(self.world.numbers)
        assert len(vertex.controllers) <= recorded, f"{why}: two of a number"
        assert vertex.most_controllers <= 2 + still, why
        assert not self.world.deserted, why
        # Who has acted, and was followed by another, does not act again.
        turns = [name for name, _ in groupby(self.world.order)]
        assert len(turns) == len({*turns}), f"{why}: {turns}"


def test_nobody_is_killed(tmp_path: Path, points: Use) -> None:
    story = Story(tmp_path / "run", "succeeded", False, points)
    story.play(Points(None, after=False))
    story.check("nobody is killed")
    assert len(story.world.numbers) >= 2, "one has taken over before the timeout of the other"
    assert len({*story.world.order}) >= 2


ALL = [pytest.param(outcome, 1, marks=pytest.mark.soak) for outcome in STORIES]
LAUNCHES = pytest.mark.parametrize("acts", [False, True], ids=["looks on", "acts, too"])
WHEN = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])


@LAUNCHES
@WHEN
@pytest.mark.parametrize(("outcome", "stride"), [("succeeded", KILLED), *ALL])
def test_killed_once(
    tmp_path: Path, points: Use, acts: bool, after: bool, outcome: str, stride: int
) -> None:
    hit: set[str] = set()
    for at in range(1 + stride // 2, MOST_POINTS, stride):
        point = Points(at, after, happens=kill)
        story = Story(tmp_path / str(at), outcome, acts, points)
        story.play(point)
        story.check(f"{outcome}: killed at point {at}, {point.hit}")
        if not point.hit:
            break  # there are no more points
        hit.add(point.hit.split()[0])
    else:
        raise AssertionError("the scenario has more points than expected")
    kinds = {"submit", "get", "create", "write", "read", "names"}
    assert hit >= kinds if stride == 1 else len(hit) > 1


@LAUNCHES
@WHEN
@pytest.mark.parametrize("seconds", [SHORT, LONG])
@pytest.mark.parametrize(("outcome", "stride"), [("moved", STOOD_STILL), *ALL])
def test_stood_still_once(
    tmp_path: Path,
    points: Use,
    acts: bool,
    after: bool,
    outcome: str,
    stride: int,
    seconds: float,
) -> None:
    for at in range(1 + stride // 2, MOST_POINTS, stride):
        story = Story(tmp_path / str(at), outcome, acts, points)
        point = Points(at, after, happens=partial(story.world.stand_still, seconds))
        story.play(point)
        story.check(f"{outcome}: stood still at point {at}, {point.hit}", still=True)
        if not point.hit:
            break
    else:
        raise AssertionError("the scenario has more points than expected")
    assert at > stride


@pytest.mark.soak
@LAUNCHES
@pytest.mark.parametrize("outcome", STORIES)
def test_killed_again_and_again(tmp_path: Path, points: Use, outcome: str, acts: bool) -> None:
    """Each life of anybody gets so far, and ends there, until Vertex AI may not start it again."""
    undisturbed = Points(None, after=False)
    Story(tmp_path / "undisturbed", outcome, acts, points).play(undisturbed)
    for seed in range(SEEDS):
        random = Random(f"{outcome} {acts} {seed}")
        story = Story(tmp_path / str(seed), outcome, acts, points)
        deaths = sorted(random.sample(range(1, undisturbed.count), random.randint(2, 6)))
        point = Points(deaths, after=seed % 2 == 0, happens=kill)
        story.play(point)
        story.check(f"{outcome}: killed at points {deaths}")
        assert point.hit
