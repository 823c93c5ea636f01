"""Each teller is told all of a run, once and in order, whoever leads, whatever fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.rundir.compacted import compaction, fail, watched
from tests.trainer.telemetry.runs import Heard, Run
from tests.trainer.telemetry.test_board import read
from trainer.rundir.events import EventReader
from trainer.telemetry import board
from trainer.telemetry.board import EVENTS
from trainer.telemetry.position import TOLD, Position, last_position
from trainer.telemetry.rounds import HOLD, LIMIT

WHO = "wandb"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_newest_events_wait_for_others_of_their_time(run: Run) -> None:
    rounds = run.rounds(1)
    run.steps(3, 1.0, generation=2, by="b")
    assert rounds.next() and rounds.step == 0
    run.now -= 0.5
    run.steps(1, 3.0, 2.0, by="a")  # written earlier, and seen later
    run.now += 0.5 + HOLD
    assert rounds.next()
    assert run.losses() == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_the_next_leader_goes_on_where_the_last_was_lost(run: Run) -> None:
    first = run.rounds(1)
    run.steps(1, 4.0, 3.0)
    run.now += HOLD
    run.steps(3, 2.5)  # read, and not told yet
    first.next()
    run.now += HOLD
    run.steps(4, 2.0)
    second = run.rounds(2)
    run.now += HOLD
    assert second.next() and second.step == 4
    assert run.losses() == [(1, 4.0), (2, 3.0), (3, 2.5), (4, 2.0)]


def test_what_was_told_and_not_put_down_is_told_again(run: Run) -> None:
    directory, store = watched(run.directory)
    run.steps(1, 4.0)
    first = run.rounds(1)
    first.next(hold=0.0)
    run.steps(2, 3.0)
    lost = run.rounds(1)  # the same leader, which is lost before it writes its position
    lost._run_dir = directory
    store.before = fail
    lost.next(hold=0.0)
    run.steps(3, 2.0)
    run.rounds(2).next(hold=0.0)
    assert run.losses() == [(1, 4.0), (2, 3.0), (3, 2.0)]


def test_steps_that_are_lost_and_repeated_are_one_line(run: Run) -> None:
    rounds = run.rounds(1)
    run.steps(1, 4.0, 3.0, 2.0)
    rounds.next(hold=0.0)
    run.now += 1
    run.emit("leader", "loss", member="workerpool1-0", reason="gone")
    run.now += 1
    run.steps(2, 3.5, 2.5, 1.5, generation=2, by="b")
    rounds.next(hold=0.0)
    assert run.losses() == [(1, 4.0), (2, 3.5), (3, 2.5), (4, 1.5)]
    ((step, text),) = read(Path(run.directory.url) / EVENTS)["loss"]
    assert step == 3 and b"workerpool1-0" in text


def test_segments_that_were_told_are_not_read_again(run: Run) -> None:
    rounds = run.rounds(1)
    for step in range(1, 9):
        run.steps(step, 1.0 / step)
    compaction(run.directory).round()
    rounds.next(hold=0.0)
    seen = last_position(run.directory, 2).seen
    directory, store = watched(run.directory)
    opened: list[str] = []
    reading = store.read

    def read_and_note(name: str, limit: int | None = None) -> bytes:
        opened.append(name)
        return reading(name, limit)

    store.read = read_and_note  # type: ignore[method-assign]
    assert EventReader(directory, seen=seen).read_new() == []
    assert not [name for name in opened if "/segments/" in name]
    run.steps(9, 0.1)
    (event,) = EventReader(run.directory, seen=seen).read_new()
    assert event["first"] == 9


def test_a_teller_that_is_away_is_told_everything_once_when_it_is_back(run: Run) -> None:
    tracker = Heard()
    rounds = run.rounds(1, tracker, WHO)
    run.steps(1, 4.0)
    assert rounds.next(hold=0.0)
    tracker.takes = 1
    run.steps(2, 3.0, 2.5)
    assert not rounds.next(hold=0.0)
    assert tracker.steps == [1, 2], "one of the two was taken, and the other is kept"
    run.steps(4, 2.0)
    tracker.takes = 0
    assert not rounds.next(hold=0.0)
    assert last_position(run.directory, 2, WHO).curves.step == 1, "nobody goes on behind it"
    tracker.takes = None
    assert rounds.next(hold=0.0)
    assert tracker.steps == [1, 2, 3, 4]
    assert last_position(run.directory, 2, WHO).curves.step == 4
    assert run.complaints == []


def test_while_it_is_away_it_is_given_nothing_more_to_keep(run: Run) -> None:
    tracker = Heard()
    rounds = run.rounds(1, tracker, WHO)
    tracker.takes = 0
    for step in range(1, 50):
        run.steps(step, 1.0)
        assert not rounds.next(hold=0.0)
    assert len(tracker.kept) == 1
    tracker.takes = None
    assert rounds.next(hold=0.0)
    assert tracker.steps == [*range(1, 50)]


def test_one_that_stays_away_is_complained_of_once_and_told_all_by_the_next_leader(
    run: Run,
) -> None:
    tracker = Heard()
    rounds = run.rounds(1, tracker, WHO)
    tracker.takes = 0
    run.steps(1, 3.0)
    rounds.next(hold=0.0)
    assert run.complaints == [] and not rounds.stays_away
    for _ in range(3):
        run.now += LIMIT
        assert not rounds.next(hold=0.0) and rounds.stays_away
    (said,) = run.complaints
    assert said == (
        "the tracker takes nothing of this run, and is told all later: no route to host [SW6242]"
    )
    rounds.close()
    run.steps(2, 2.0)
    other = Heard()
    later = run.rounds(2, other, WHO)
    assert later.next(hold=0.0) and other.steps == [1, 2] and not later.stays_away


def test_each_teller_goes_on_where_it_is_itself(run: Run) -> None:
    run.steps(1, 3.0)
    assert run.rounds(1).next(hold=0.0)
    tracker = Heard()
    assert run.rounds(2, tracker, WHO).next(hold=0.0)
    run.steps(2, 2.0)
    assert run.rounds(2).next(hold=0.0)
    assert tracker.steps == [1]
    other = Heard()
    assert run.rounds(3, other, WHO).next(hold=0.0)
    assert other.steps == [2] and run.losses() == [(1, 3.0), (2, 2.0)]


def test_a_board_that_could_not_write_has_each_point_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = run.rounds(1)
    run.steps(1, 3.0)
    assert rounds.next(hold=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(board, "append_private", lambda path: fail())
        run.steps(2, 2.0)
        assert not rounds.next(hold=0.0)
        run.steps(3, 1.0)
        assert not rounds.next(hold=0.0)
    assert rounds.next(hold=0.0)
    assert run.losses() == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_while_nothing_happens_nothing_is_written(run: Run) -> None:
    def files() -> dict[str, int]:
        folder = Path(run.directory.url)
        return {str(it): it.stat().st_mtime_ns for it in folder.rglob("*") if it.is_file()}

    rounds = run.rounds(1)
    run.steps(1, 3.0)
    rounds.next(hold=0.0)
    before = files()
    for _ in range(5):
        run.now += 10.0
        assert rounds.next()
    assert files() == before
    run.steps(2, 2.0)
    rounds.next(hold=0.0)
    assert files() != before


def test_a_position_that_is_damaged_is_refused(run: Run) -> None:
    for value in ({}, {"late": 1}, {"late": [], "seen": {"all": {"a": "x"}, "some": {}}}):
        run.directory.write_json(f"{TOLD}/000001.json", value)
        with pytest.raises(ValueError, match=r"none|seen"):
            last_position(run.directory, 2)
    assert last_position(run.directory, 1).curves.step == 0, "a later leader's counts for nobody"


def test_a_position_is_read_as_it_was_written(run: Run) -> None:
    rounds = run.rounds(3)
    run.steps(1, 3.0)
    rounds.next(hold=0.0)
    written = last_position(run.directory, 4)
    assert isinstance(written, Position) and written.late == []
    assert written.curves.step == 1
    assert EventReader(run.directory, seen=written.seen).read_new() == []
