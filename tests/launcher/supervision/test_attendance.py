"""Who looks after a run, and which controller acts: the table in ``attendance``, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.supervision.attendance import (
    STALE,
    Attendance,
    Attendant,
    Relieved,
    read_attendants,
    record_name,
)
from tests.launcher.faked_vertex import Clock
from trainer.rundir.directory import RunDirectory

EVERY = 20.0


class World:
    """A run directory, and who attends it: each on a machine with a clock of its own."""

    def __init__(self, path: Path) -> None:
        self.run_dir = RunDirectory(str(path))
        self.ticks = Clock()

    def attendance(self, controller: int, ahead: float = 0.0) -> Attendance:
        attendant = Attendant("me@here", controller, every=EVERY)
        return Attendance(self.run_dir, attendant, lambda: self.ticks() + ahead, self.ticks)

    def here(self, controller: int, ahead: float = 0.0) -> Attendance:
        """One that has begun."""
        found = self.attendance(controller, ahead)
        found.look()
        found.begin()
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_one_that_is_alone_acts(world: World) -> None:
    one = world.here(1)
    assert one.may_act()
    assert one.controllers == {1}


def test_the_old_one_goes_on_until_the_new_one_is_there_and_that_waits_for_it(
    world: World,
) -> None:
    old = world.here(1)
    new = world.here(2)
    assert not new.may_act(), "the old one has not left"
    old.look()
    with pytest.raises(Relieved):
        old.may_act()
    old.leave()
    new.look()
    assert new.may_act()
    assert new.controllers == {2}


def test_one_that_was_killed_is_waited_for_no_longer_than_it_may_be_silent(world: World) -> None:
    world.here(1)
    new = world.here(2)
    for _ in range(STALE):
        assert not new.may_act()
        world.ticks.sleep(EVERY)
        new.look()
    assert new.may_act()


def test_one_that_beats_is_waited_for_however_long_it_takes(world: World) -> None:
    old, new = world.here(1, ahead=-1e6), world.here(2, ahead=1e6)
    for _ in range(3 * STALE):
        world.ticks.sleep(EVERY)
        old.beat()
        new.look()
        assert not new.may_act(), "whatever the clocks say"


def test_one_whose_custom_job_has_ended_is_not_waited_for(world: World) -> None:
    world.here(1)
    new = world.here(2)
    new.look(over=frozenset({1}))
    assert new.may_act()


def test_another_life_of_the_same_controller_does_not_wait_and_relieves_it(world: World) -> None:
    before = world.here(1)
    again = world.here(1)
    assert again.may_act()
    assert again.lives == {1: 1}
    again.look()
    assert again.lives == {1: 2}
    before.look()
    with pytest.raises(Relieved):
        before.may_act()


def test_an_old_one_that_comes_back_leaves_as_soon_as_it_knows_that_the_new_one_lives(
    world: World,
) -> None:
    new = world.here(2)
    old = world.here(1)
    assert not old.may_act(), "it is not known yet"
    world.ticks.sleep(EVERY)
    new.beat()
    old.look()
    with pytest.raises(Relieved):
        old.may_act()
    new.look()
    assert not new.may_act(), "the old one acts never, but the new one cannot know"
    old.leave()
    new.look()
    assert new.may_act()


def test_an_old_one_that_comes_back_goes_on_where_the_new_one_is_gone(world: World) -> None:
    world.here(2)
    old = world.here(1)
    for _ in range(STALE):
        assert not old.may_act()
        world.ticks.sleep(EVERY)
        old.look()
    assert old.may_act()


def test_launches_neither_wait_nor_are_waited_for(world: World) -> None:
    launch, controller = world.here(0), world.here(1)
    launch.look()
    assert launch.may_act() and controller.may_act()
    assert launch.controllers == {1}


def test_a_beat_is_written_when_it_is_time_to(world: World) -> None:
    one = world.here(1)
    one.beat()
    assert read_attendants(world.run_dir)[1].beat == 0
    world.ticks.sleep(EVERY)
    one.beat()
    [record] = read_attendants(world.run_dir).values()
    assert (record.beat, record.seen, record.since) == (1, 1000.0 + EVERY, 1000.0)
    assert record.is_here(record.seen + STALE * EVERY - 1)
    assert not record.is_here(record.seen + STALE * EVERY)
    one.leave()
    [record] = read_attendants(world.run_dir).values()
    assert record.left and not record.is_here(record.seen)


def test_two_that_begin_at_once_get_a_record_each(world: World) -> None:
    one, two = world.attendance(1), world.attendance(1)
    one.look()
    two.look()
    one.begin()
    two.begin()
    assert list(read_attendants(world.run_dir)) == [1, 2]


def test_a_record_that_is_damaged_is_nobody(world: World) -> None:
    world.run_dir.store.write(record_name(1), b"no JSON")
    world.run_dir.store.write(record_name(2), b'{"controller": "x", "beat": 1e99, "left": 7}')
    world.run_dir.store.write("attendants/x.json", b"{}")
    one = world.here(3)
    assert one.may_act()
    assert list(read_attendants(world.run_dir)) == [2, 3]
