"""What is done about a run's controllers, and what becomes of their requests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.api.apierror import ApiError
from launcher.job.customjob import CONTROLLER_LABEL, CustomJob
from launcher.supervision.attendance import Attendance, Attendant
from launcher.supervision.controllers import (
    ABSENT,
    GRACE,
    MAX_FRUITLESS,
    MAX_LIVES,
    PATIENCE,
    PAUSES,
    Cancel,
    ControllerRecord,
    Find,
    GiveUp,
    Send,
    Situation,
    decide,
    read_controllers,
    record_name,
    usd_of,
)
from launcher.supervision.entrusted import ALONE, NOT_YET, Entrusted
from launcher.supervision.staff import Staff, Wish
from launcher.target import JobsApi, Target
from tests.launcher.faked_vertex import Clock, Region, Vertex
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter, read_events

NOW = 100_000.0
DAY = 86_400.0


def controller(number: int, state: str = "RUNNING", **more: Any) -> ControllerRecord:
    ended = NOW if state in ("FAILED", "REFUSED", "SUCCEEDED") else None
    defaults = {"job": f"jobs/{number}", "created": NOW, "started": NOW, "ended": ended}
    return ControllerRecord(number, state=state, **{**defaults, **more})


def decided(*them: ControllerRecord, now: float = NOW, **more: Any) -> list[Any]:
    return [*decide(Situation(them, **more), now)]


def test_the_first_is_sent_at_once_and_another_when_none_is_alive() -> None:
    assert decided() == [Send(1)]
    assert decided(controller(1)) == []
    assert decided(controller(1, "QUEUED", started=None)) == []
    assert decided(controller(1, "FAILED"), lives={1: 1}) == [Send(2)]
    assert decided(controller(1, "SUCCEEDED"), controller(2, "FAILED"), lives={1: 1, 2: 1}) == [
        Send(3)
    ]


def test_one_that_may_have_been_sent_is_looked_for_and_no_other_is() -> None:
    assert decided(controller(1, "SUBMITTING", job=None, started=None)) == [Find(1)]


def test_one_that_never_came_is_followed_after_a_pause_and_at_last_by_none() -> None:
    failed = [controller(1, "REFUSED", reason="no quota")]
    while len(failed) < MAX_FRUITLESS:
        pause = PAUSES.wait(len(failed), 0.0)
        assert decided(*failed, now=NOW + pause - 1) == []
        assert decided(*failed, now=NOW + pause) == [Send(len(failed) + 1)]
        failed.append(controller(len(failed) + 1, "FAILED", reason="no image"))
    assert decided(*failed, now=NOW + DAY) == [
        GiveUp("4 in a row have not come to look after it; the last: no image")
    ]
    assert decided(*failed, now=NOW, lives={4: 1}) == [Send(5)], "the last one did come"


@pytest.mark.parametrize(
    ("timeout", "lead"), [(7 * DAY, 3600.0), (600.0, 300.0)], ids=["an hour", "half of it"]
)
def test_another_is_sent_before_its_timeout_and_one_alone(timeout: float, lead: float) -> None:
    one = controller(1)
    before = NOW + timeout - lead - 1
    assert decided(one, now=before, timeout=timeout) == []
    assert decided(one, now=before + 1, timeout=timeout) == [Send(2)]
    queued = controller(2, "QUEUED", started=None)
    assert decided(one, queued, now=before + 2, timeout=timeout) == []


def test_no_third_is_sent_while_the_first_has_not_ended_though_the_second_will_not_last() -> None:
    """The first was started again, and does not know yet whether the second lives."""
    late = NOW + 7 * DAY - 1800.0
    two = controller(1), controller(2)
    assert decided(*two, now=late) == []
    assert decided(*two, now=late, lives={1: MAX_LIVES + 1, 2: MAX_LIVES + 1}) == []
    over = replace(two[0], state="SUCCEEDED", ended=late)
    assert decided(over, two[1], now=late, lives={1: 2, 2: 1}) == [Send(3)]


def test_another_is_sent_for_one_that_vertex_may_not_start_again() -> None:
    assert decided(controller(1), lives={1: MAX_LIVES}) == []
    assert decided(controller(1), lives={1: MAX_LIVES + 1}) == [Send(2)]


def test_one_that_does_not_end_beside_a_newer_one_is_cancelled_once() -> None:
    two = controller(1), controller(2)
    assert decided(*two, relieved_for={1: GRACE - 1}) == []
    assert decided(*two, relieved_for={1: GRACE}) == [Cancel(1, "another one looks after the run")]
    assert decided(*two, relieved_for={1: GRACE}, cancel_sent=frozenset({1})) == []
    assert decided(*two, relieved_for={1: GRACE}, own=1) == [], "it ends by itself"


@pytest.mark.parametrize(
    ("started", "limit", "why"),
    [
        (None, PATIENCE, "it has had no machine for 30 min"),
        (NOW, ABSENT, "it has not been heard of for 15 min"),
    ],
)
def test_one_without_a_machine_or_that_is_not_heard_of_is_cancelled_and_followed(
    started: float | None, limit: float, why: str
) -> None:
    one = controller(1, "RUNNING" if started else "QUEUED", started=started)
    assert decided(one, away_for={1: limit - 1}) == []
    assert decided(one, away_for={1: limit}) == [Cancel(1, why)]
    assert decided(one, away_for={1: limit}, cancel_sent=frozenset({1})) == []
    ended = replace(one, state="CANCELLED", ended=NOW)
    assert decided(ended, now=NOW + DAY) == [Send(2)]


def test_when_the_run_has_ended_none_is_sent_and_those_that_stay_are_cancelled() -> None:
    assert decided(ended_for=0.0) == []
    two = controller(1), controller(2)
    assert decided(*two, ended_for=GRACE - 1, own=2) == []
    assert decided(*two, ended_for=GRACE, own=2) == [Cancel(1, "the run has ended")]


def test_what_they_cost_is_the_time_that_each_ran() -> None:
    two = (
        controller(1, "FAILED", started=0.0, ended=1800.0, usd_per_hour=2.0),
        controller(2, started=3600.0, usd_per_hour=1.0),
        controller(3, "QUEUED", started=None, usd_per_hour=None),
    )
    assert usd_of(two, 7200.0) == pytest.approx(2.0)
    assert usd_of((replace(two[0], usd_per_hour=None),), 7200.0) is None


# --- what becomes of the requests ---------------------------------------------------------------


class Stubborn(Region):
    """An API that answers with an error, once it has done what it was asked to."""

    def __init__(self, vertex: Vertex, answer: ApiError, done: bool) -> None:
        super().__init__(vertex, "us-central1")
        self._answer: ApiError | None = answer
        self._done = done

    def submit(self, request: CustomJob) -> Any:
        answer, self._answer = self._answer, None
        if answer is None or self._done:
            found = super().submit(request)
        if answer is not None:
            raise answer
        return found


class World:
    def __init__(self, path: Path) -> None:
        self.run_dir = RunDirectory(str(path))
        self.clock = Clock()
        self.vertex = Vertex(lambda number: [], self.clock)
        self.sent: list[str] = []

    def staff(self, api: JobsApi | None = None, able: bool = True, own: int = 0) -> Staff:
        def request(number: int, endpoint: str) -> CustomJob:
            return {"labels": {CONTROLLER_LABEL: str(number)}}

        def region(name: str) -> JobsApi:
            self.sent.append(name)
            return api or self.vertex.region(name)

        attendance = Attendance(
            self.run_dir, Attendant("me@here", own, every=20.0), self.clock, self.clock
        )
        return Staff(
            self.run_dir,
            Wish("run-1", ("us-central1", "us-east4"), "e2-standard-4", 0.134),
            Target(region),
            request if able else None,
            attendance,
            EventWriter(self.run_dir, "staff", self.clock),
            self.clock,
            self.clock,
            own,
        )

    def turns(self, staff: Staff, seconds: float, ended: bool = False) -> None:
        for _ in range(round(seconds / 10.0) + 1):
            staff.turn(ended)
            self.clock.sleep(10.0)

    def events(self) -> list[str]:
        return [event["event"] for event in read_events(self.run_dir)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "run")


def test_one_is_sent_and_its_record_says_how_it_goes(world: World) -> None:
    staff = world.staff()
    world.turns(staff, 20.0)
    [record] = read_controllers(world.run_dir)
    assert (record.number, record.state, record.region) == (1, "RUNNING", "us-central1")
    assert record.started == 1010.0
    assert staff.usd(1010.0 + 3600.0) == pytest.approx(0.134)
    assert world.events() == ["controller_started"]


def test_a_request_that_has_arrived_without_an_answer_is_found_and_not_sent_again(
    world: World,
) -> None:
    lost = ApiError("SW3010", "no answer", transient=True, kind="silent")
    staff = world.staff(Stubborn(world.vertex, lost, done=True))
    staff.turn(False)
    assert staff.silence, "whoever watches is told"
    world.turns(staff, 20.0)
    assert len(world.vertex.controllers) == 1
    assert staff.records[1].state == "RUNNING"


def test_a_request_that_has_not_arrived_is_followed_by_another(world: World) -> None:
    lost = ApiError("SW3010", "no answer", transient=True, kind="silent")
    staff = world.staff(Stubborn(world.vertex, lost, done=False))
    world.turns(staff, 300.0)
    assert [it.state for it in read_controllers(world.run_dir)] == ["REFUSED", "RUNNING"]
    assert "no answer" in staff.records[1].reason
    assert world.events() == ["controller_ended", "controller_started"]


def test_the_next_one_is_sent_to_another_region_where_one_was_refused(world: World) -> None:
    refused = ApiError("SW3007", "no quota", kind="quota", code=429)
    staff = world.staff(Stubborn(world.vertex, refused, done=False))
    world.turns(staff, 60.0)
    assert [it.region for it in read_controllers(world.run_dir)] == ["us-central1", "us-east4"]


def test_a_machine_that_has_not_what_they_need_says_so(world: World) -> None:
    staff = world.staff(able=False)
    staff.turn(False)
    assert "is on the machine that launched the run" in staff.trouble
    assert read_controllers(world.run_dir) == []


def test_when_the_run_has_ended_the_others_are_cancelled_after_a_while(world: World) -> None:
    staff = world.staff()
    world.turns(staff, 20.0)
    world.turns(staff, GRACE - 20.0, ended=True)
    assert not staff.others_are_over
    world.turns(staff, 40.0, ended=True)
    assert staff.others_are_over
    [job] = world.vertex.controllers.values()
    assert job.state.state == "CANCELLED"


def test_none_is_sent_a_second_time_where_the_run_directory_is_away(world: World) -> None:
    """As a file system that is mounted again: its records are there then, and count."""
    staff = world.staff()
    world.turns(staff, 20.0)
    here, away = Path(world.run_dir.url), Path(f"{world.run_dir.url}-away")
    here.rename(away)
    world.turns(staff, 100.0)
    assert len(world.vertex.controllers) == 1
    assert not here.exists()
    away.rename(here)
    world.turns(staff, 100.0)
    assert len(world.vertex.controllers) == 1 and len(read_controllers(world.run_dir)) == 1


class Queue(Region):
    """An API in whose region there are no machines."""

    def get(self, name: str) -> Any:
        state = self._vertex.controllers[name].state
        return state if "us-central1" in name else super().get(name)


def test_where_one_has_got_no_machine_another_region_is_tried(world: World) -> None:
    class Regions(Queue):
        def submit(self, request: CustomJob) -> Any:
            self.region = world.sent[-1]
            return super().submit(request)

    staff = world.staff(Regions(world.vertex, "us-central1"))
    world.turns(staff, PATIENCE + 120.0)
    records = read_controllers(world.run_dir)
    assert [(it.region, it.state) for it in records] == [
        ("us-central1", "CANCELLED"),
        ("us-east4", "RUNNING"),
    ]


def test_one_that_is_heard_of_again_is_kept_and_one_that_is_not_is_followed(world: World) -> None:
    staff = world.staff()
    controller = Attendance(
        world.run_dir, Attendant("me@there", 1, every=20.0), world.clock, world.clock
    )
    world.turns(staff, 20.0)
    world.turns(staff, ABSENT - 60.0)
    controller.begin()
    world.turns(staff, ABSENT - 60.0)  # it hangs, and comes back
    controller.beat()
    world.turns(staff, ABSENT - 60.0)
    assert [it.state for it in read_controllers(world.run_dir)] == ["RUNNING"]
    world.turns(staff, 400.0)
    first, second = read_controllers(world.run_dir)
    assert (first.state, second.state) == ("CANCELLED", "RUNNING")
    assert first.reason == (
        "cancelled by who looks after the run: it has not been heard of for 15 min"
    )


def test_a_launch_acts_itself_while_none_has_come_for_long(world: World) -> None:
    staff = world.staff(Queue(world.vertex, "us-central1"))
    acted: list[float] = []

    class Supervisor:
        def run(self) -> dict[str, Any]:
            return {"state": "succeeded", "at": world.clock()}

        def told(self) -> list[str]:
            return []

    looking = Entrusted(
        world.run_dir,
        staff,
        Supervisor(),  # type: ignore[arg-type]
        Target(lambda region: world.vertex.region(region), poll=10.0),
        lambda: acted.append(world.clock()),
        world.clock.sleep,
        world.clock,
    )
    outcome = looking.run()
    assert outcome["at"] - 1000.0 == ALONE and acted == [outcome["at"]]
    assert looking.told() == [
        "no controller has looked after the run for 5 min, and its CustomJob is PENDING; "
        f"this launch does meanwhile [{NOT_YET}]"
    ]


def test_one_that_vertex_does_not_know_any_more_is_over(world: World) -> None:
    staff = world.staff()
    world.turns(staff, 10.0)
    record = staff.records[1]
    world.run_dir.write_json(record_name(1), {**record.to_json(), "job": "jobs/gone"})

    class Gone(Region):
        def get(self, name: str) -> Any:
            raise ApiError("SW3003", "there is none", code=404)

    world.staff(Gone(world.vertex, "us-central1")).turn(False)
    assert read_controllers(world.run_dir)[0].state == "LOST"


def test_a_record_counts_by_the_name_of_its_file(world: World) -> None:
    world.run_dir.write_json(record_name(3), {"number": 9, "state": 7, "job": None})
    [record] = read_controllers(world.run_dir)
    assert (record.number, record.state) == (3, "SUBMITTING")
