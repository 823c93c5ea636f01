"""What recovery.py concludes from the workers' stamps."""

from __future__ import annotations

from pathlib import Path

import pytest

from stamps import Recovery, Stamp, read_stamps, recovery, step_times


def stamp(time: float, step: int, pid: int = 1, world: str = "a") -> Stamp:
    return Stamp(time, 10 * time, "vm-a", pid, world, 2, step)


STEADY = [stamp(1.0, 1), stamp(2.0, 2), stamp(3.0, 3)]


def test_training_is_taken_up_where_it_was() -> None:
    # The running step is completed after the event, then the same process is in another world.
    stamps = [*STEADY, stamp(4.0, 4), stamp(7.0, 5, world="b"), stamp(8.0, 6, world="b")]
    assert recovery(stamps, 3.5) == Recovery(seconds=3.5, pause=3.0, lost=0)


def test_steps_that_are_repeated_are_lost() -> None:
    # A new process begins after a commit at step 1; an old one still lives somewhere.
    stamps = [*STEADY, stamp(5.0, 2, pid=2), stamp(5.5, 4)]
    assert recovery(stamps, 3.5) == Recovery(seconds=1.5, pause=2.0, lost=2)


def test_without_another_world_nothing_has_recovered() -> None:
    assert recovery([*STEADY, stamp(4.0, 4)], 3.5) is None
    assert recovery([], 3.5) is None


def test_stamps_are_read_in_order_without_what_is_being_written(tmp_path: Path) -> None:
    (tmp_path / "vm-a-7").write_text("2.5 0.5 b 3 11\n3.5 0.7 b 3 1")
    (tmp_path / "vm-b-8").write_text("1.5 0.25 a 3 10\n")
    (tmp_path / "vm-c-9").write_text("")
    assert read_stamps(tmp_path) == [
        Stamp(1.5, 0.25, "vm-b", 8, "a", 3, 10),
        Stamp(2.5, 0.5, "vm-a", 7, "b", 3, 11),
    ]


def test_times_are_those_of_one_process() -> None:
    others = [stamp(time + 0.4, 1, pid=2) for time in (1.0, 2.0)]
    stamps = sorted([*STEADY, stamp(5.0, 4), *others], key=lambda one: one.time)
    times, cpu = step_times(stamps, skip=1)
    assert times == pytest.approx([1.0, 2.0]) and cpu == pytest.approx([10.0, 20.0])
