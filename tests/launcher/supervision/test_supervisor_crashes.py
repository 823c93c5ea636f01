"""The supervisor is killed at every point at which it touches the world, and attached again.

The world is a run directory on disk and a Vertex AI in memory, which lives on. Every call of the
API and every operation on a file is a point: it is killed before it, or after it. Then a new
supervisor goes on from what is there, until one sees the run through. Or it is not killed, and
another one acts just then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launcher.api.vertex import JobState
from launcher.job.customjob import CustomJob
from launcher.supervision.attempt import UNSENT
from launcher.supervision.fleet import Fleet
from launcher.supervision.supervisor import Supervisor
from tests.launcher.faked_vertex import Looks, Region
from tests.launcher.supervision.policy_run import STOCKOUT
from tests.launcher.supervision.supervised import ONE, Fixture
from trainer.rundir.store import Store
from trainer.rundir.wanted import newest_wanted

MOST_POINTS = 400  # far more than the scenario has


class Killed(BaseException):
    """SIGKILL: nothing that follows in the supervisor runs."""


def kill() -> None:
    raise Killed


class Points:
    """Counts what touches the world, and has something happen at one of the points.

    Args:
        at: where, or at which of them; None counts only.
        after: whether the operation is carried out first.
        happens: what does; by default the supervisor is killed.
    """

    def __init__(
        self,
        at: int | Collection[int] | None,
        after: bool,
        happens: Callable[[], object] = kill,
    ) -> None:
        self.count = 0
        self.hit = ""
        self._inside = False
        self._at = () if at is None else (at,) if isinstance(at, int) else at
        self._after = after
        self._happens = happens

    def touch(self, name: str, operation: Callable[..., Any], *args: Any, **more: Any) -> Any:
        if self._inside:  # what others do meanwhile is not the supervisor's
            return operation(*args, **more)
        self.count += 1
        here = self.count in self._at
        self._inside = True
        try:
            if here:
                self.hit = name
                if not self._after:
                    self._happens()
            try:
                return operation(*args, **more)
            finally:
                if here and self._after:
                    self._happens()
        finally:
            self._inside = False


class Touched(Region):
    """An API whose every call is a point."""

    def __init__(self, region: Region, points: Points) -> None:
        super().__init__(region._vertex, region.region)
        self._points = points

    def submit(self, request: CustomJob) -> JobState:
        state: JobState = self._points.touch("submit", super().submit, request)
        return state

    def find(self, run_id: str | None = None, attempt: int | None = None) -> Any:
        return self._points.touch("find", super().find, run_id, attempt)

    def find_controller(self, run_id: str, number: int) -> Any:
        return self._points.touch("find", super().find_controller, run_id, number)

    def get(self, name: str) -> JobState:
        state: JobState = self._points.touch("get", super().get, name)
        return state

    def cancel(self, name: str) -> None:
        self._points.touch("cancel", super().cancel, name)


def touched(points: Points | None, region: Region) -> Region:
    return region if points is None else Touched(region, points)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Callable[[Points | None], None]:
    """Makes every operation on a file one of the given points."""
    current: list[Points | None] = [None]
    monkeypatch.setattr("os.fsync", lambda handle: None)  # it is not the power that fails here

    def wrap(name: str) -> None:
        original = getattr(Store, name)

        def watched(self: Store, *args: Any, **more: Any) -> Any:
            if current[0] is None:
                return original(self, *args, **more)
            what = f"{name} {args[0] if args else ''}"
            return current[0].touch(what, original, self, *args, **more)

        monkeypatch.setattr(Store, name, watched)

    for name in ("read", "write", "create", "names"):
        wrap(name)

    def use(points: Points | None) -> None:
        current[0] = points

    return use


def in_turn(fixture: Fixture, lives: list[Looks]) -> Callable[[int], Looks]:
    """What becomes of the jobs as they are sent; one after these ends the run."""

    def life(number: int) -> Looks:
        sent = len(fixture.vertex.jobs)
        if sent < len(lives):
            return lives[sent]
        return ["RUNNING", fixture.ending("succeeded", "training is complete"), "SUCCEEDED"]

    return life


def scenario(fixture: Fixture) -> Callable[[int], Looks]:
    """A stockout, a preemption, a failure inside Vertex AI, and then the run succeeds."""
    lives: list[Looks] = [
        ["PENDING", f"FAILED: {STOCKOUT}"],
        ["RUNNING", "FAILED: preempted"],
        ["FAILED: Internal error"],
    ]
    return in_turn(fixture, lives)


def fleet(fixture: Fixture) -> Callable[[int], Looks]:
    """Three at a time, of which two are lost, one finds nothing, and a fourth ends the run."""
    lives: list[Looks] = [
        ["PENDING", f"FAILED: {STOCKOUT}"],
        ["RUNNING", "RUNNING", "FAILED: preempted"],
        ["RUNNING", "RUNNING", "RUNNING", "RUNNING", "SUCCEEDED"],
        ["FAILED: Internal error"],
    ]
    return in_turn(fixture, lives)


def moved(fixture: Fixture) -> Callable[[int], Looks]:
    """One trains; two are wanted, in another region; and one of those that come ends the run."""
    lives: list[Looks] = [
        ["RUNNING", fixture.asking(2, "us-east4")],
        [f"FAILED: {STOCKOUT}"],
        ["RUNNING"],
    ]
    return in_turn(fixture, lives)


def renewed(fixture: Fixture) -> Callable[[int], Looks]:
    """One whose timeout is near is replaced, and its replacement ends the run."""
    return in_turn(fixture, [["PENDING", "RUNNING"]])


def went_back(fixture: Fixture) -> Callable[[int], Looks]:
    """On demand where there is no Spot; then a Spot job beside that has it leave, and ends all."""
    return in_turn(fixture, [[f"FAILED: {STOCKOUT}"], ["RUNNING"]])


def cancelled(fixture: Fixture) -> Callable[[int], Looks]:
    """Somebody cancels the run from elsewhere; the job must be gone in the end."""
    return lambda number: ["RUNNING", fixture.ending("cancelled", "by somebody"), "RUNNING"]


def limited(fixture: Fixture) -> Callable[[int], Looks]:
    """A limit is reached, and nobody saves anything."""
    return lambda number: ["RUNNING"]


def begun(path: Path, make: Callable[[Fixture], Callable[[int], Looks]]) -> Fixture:
    """A world in which the scenario's jobs live."""
    lives: list[Callable[[int], Looks]] = []
    more: dict[str, Any] = {"time": "30s"} if make is limited else {}
    if make is renewed:
        more["timeout"] = "2min"
    if make is went_back:
        ways = {"fallback": [{"strategy": "standard"}], "regions": ["us-central1"]}
        more["ways"] = {**ways, "resubmit": {"back": "10s"}}
    wanted = Fleet(3) if make is fleet else ONE
    fixture = Fixture(path, lambda number: lives[0](number), wanted, **more)
    lives.append(make(fixture))
    return fixture


def play(
    path: Path,
    make: Callable[[Fixture], Callable[[int], Looks]],
    use: Callable[[Points | None], None],
    points: Points,
    again: Points | None = None,
) -> tuple[Fixture, int]:
    """Runs the scenario; a killed supervisor is followed by another. Returns how many it took."""
    fixture = begun(path, make)
    for supervisors, current in enumerate([points, again, None], start=1):
        use(current)
        try:
            fixture.supervisor(wrap=partial(touched, current), stop_grace=60.0).run()
            return fixture, supervisors
        except Killed:
            continue
        finally:
            use(None)
    raise AssertionError("it was killed more often than there are points")


def check(
    fixture: Fixture, outcome: str, point: str, late: bool = False, pair: bool = False
) -> None:
    """``pair``: the run may end while an attempt and its replacement are alive."""
    vertex = fixture.vertex
    assert not vertex.alive, point
    beside = fixture.most_wanted if newest_wanted(fixture.run_dir) else 0
    assert vertex.most_alive <= fixture.most_wanted + beside, point
    found = fixture.run_dir.outcome()
    assert found and found["state"] == outcome, point
    states = [job.state.state for job in vertex.jobs.values()]
    if fixture.most_wanted == 1:
        most = 2 if pair else 1
        least, most = (1, most) if outcome == "succeeded" else (0, 0)
        assert least <= states.count("SUCCEEDED") <= most, point
    # Every job is on record, once, and as it ended.
    recorded = [attempt.job for attempt in fixture.attempts if attempt.kind != UNSENT]
    assert len(recorded) == len({*recorded}) and {*recorded} <= {*vertex.jobs}, point
    for name in {*vertex.jobs} - {*recorded}:  # sent when it had been given up already
        assert late and vertex.jobs[name].state.state == "CANCELLED", point
    for attempt in fixture.attempts:
        assert attempt.over, point
        if attempt.job:
            assert attempt.state == vertex.jobs[attempt.job].state.state, point


SCENARIOS = {
    "succeeded": scenario,
    "cancelled": cancelled,
    "limited": limited,
    "fleet": fleet,
    "moved": moved,
    "renewed": renewed,
    "went back": went_back,
}


LONG = {"moved", "renewed", "went back"}  # of these, what comes second is a soak's


@pytest.mark.parametrize(
    ("outcome", "after"),
    [
        pytest.param(outcome, after, marks=[pytest.mark.soak] if after and outcome in LONG else [])
        for outcome in SCENARIOS
        for after in (False, True)
    ],
)
def test_killed_once_at_every_point(
    tmp_path: Path, points: Callable[[Points | None], None], outcome: str, after: bool
) -> None:
    make = SCENARIOS[outcome]
    hit: set[str] = set()
    for at in range(1, MOST_POINTS):
        point = Points(at, after)
        fixture, supervisors = play(tmp_path / str(at), make, points, point)
        how = outcome if outcome in ("cancelled", "limited") else "succeeded"
        check(fixture, how, f"{outcome}: killed at point {at}, {point.hit}")
        if supervisors == 1:
            break  # there are no more points
        hit.add(point.hit.split()[0])
    else:
        raise AssertionError("the scenario has more points than expected")
    assert {"submit", "get", "create", "write", "read", "names"} <= hit
    assert at > 20


@pytest.mark.parametrize(
    "second",
    [1, pytest.param(4, marks=pytest.mark.soak), 7, pytest.param(10, marks=pytest.mark.soak)],
)
def test_killed_twice(tmp_path: Path, points: Callable[[Points | None], None], second: int) -> None:
    twice = 0
    for at in range(3, 60, 5):
        point, again = Points(at, after=at % 2 == 0), Points(second, after=second % 2 == 0)
        fixture, _ = play(tmp_path / f"{at}", scenario, points, point, again)
        check(fixture, "succeeded", f"killed at {at} ({point.hit}) and {second} ({again.hit})")
        twice += bool(point.hit and again.hit)
    assert twice > 3, "else it is no second kill that this shows"


@pytest.mark.parametrize(
    ("make", "whole"),
    [
        pytest.param(make, whole, id=f"{outcome}-{acts}", marks=[] if few else [pytest.mark.soak])
        for outcome, make in SCENARIOS.items()
        if outcome not in ("cancelled", "limited")
        for whole, acts in ((False, "a turn"), (True, "to the end"))
        for few in [outcome not in LONG or (outcome == "moved" and whole)]
    ],
)
def test_another_acts_at_every_point(
    tmp_path: Path,
    points: Callable[[Points | None], None],
    make: Callable[[Fixture], Callable[[int], Looks]],
    whole: bool,
) -> None:
    """It knows nothing of the first one but what is on record, and the first nothing of it."""
    for at in range(1, MOST_POINTS):
        fixture = begun(tmp_path / str(at), make)
        other = fixture.supervisor()
        act = other.run if whole else partial(a_turn, other)
        point = Points(at, after=at % 2 == 0, happens=act)
        points(point)
        try:
            fixture.supervisor(wrap=partial(touched, point)).run()
        finally:
            points(None)
        check(fixture, "succeeded", f"another acted at point {at}, {point.hit}", late=True)
        if not point.hit:
            break  # there are no more points
    else:
        raise AssertionError("the scenario has more points than expected")
    assert at > 20


def a_turn(supervisor: Supervisor) -> None:
    supervisor._read_attempts()
    supervisor._turn()
