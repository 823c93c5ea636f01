"""A run is told of elsewhere, whoever leads, whatever fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.trainer.rundir.compacted import compaction, fail, watched
from tests.trainer.telemetry.test_board import read
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader, EventWriter
from trainer.telemetry import eventfile, herald
from trainer.telemetry.board import EVENTS, LOGS, Board
from trainer.telemetry.curves import Point
from trainer.telemetry.herald import HOLD, LIMIT, Herald, Rounds
from trainer.telemetry.position import TOLD, Position, last_position


class Run:
    """A run whose time a test sets, and what is complained of it."""

    def __init__(self, folder: Path) -> None:
        self.directory = RunDirectory(str(folder))
        self.now = 100.0
        self.complaints: list[str] = []
        self._writers: dict[str, EventWriter] = {}

    def steps(self, first: int, *losses: float, generation: int = 1, by: str = "a") -> None:
        self.emit(
            by,
            "steps",
            first=first,
            count=len(losses),
            metrics={"loss": list(losses)},
            generation=generation,
        )

    def emit(self, by: str, event: str, **fields: object) -> None:
        if by not in self._writers:
            self._writers[by] = EventWriter(self.directory, by, lambda: self.now)
        self._writers[by].emit(event, **fields)
        self._writers[by].flush()

    def rounds(self, term: int, *others: herald.Teller) -> Rounds:
        """Those of a leader, with a board."""
        position = last_position(self.directory, term)
        board = Board(self.directory.store, term, position.curves.step)
        clocks: list[Callable[[], float]] = [lambda: self.now, lambda: self.now]
        tellers: list[herald.Teller] = [board, *others]
        return Rounds(self.directory, term, position, tellers, self.complaints.append, *clocks)

    def losses(self) -> list[tuple[int, float]]:
        return read(Path(self.directory.url) / LOGS)["train/loss"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


class Heard:
    """A teller that keeps what it is told, unless it is away."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.away = False
        self.closed = False

    def __str__(self) -> str:
        return "the tracker"

    def tell(self, points: Sequence[Point]) -> None:
        if self.away:
            raise OSError("no route to host")
        self.points += points

    def close(self) -> None:
        self.closed = True


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


def test_a_teller_that_is_away_is_told_everything_when_it_is_back(run: Run) -> None:
    tracker = Heard()
    rounds = run.rounds(1, tracker)
    tracker.away = True
    run.steps(1, 3.0)
    assert not rounds.next(hold=0.0)
    assert last_position(run.directory, 2).curves.step == 0, "nobody goes on behind it"
    tracker.away = False
    run.steps(2, 2.0)
    assert rounds.next(hold=0.0)
    assert [point.step for point in tracker.points] == [1, 2]
    assert run.losses() == [(1, 3.0), (2, 2.0)]
    assert run.complaints == []


def test_one_that_stays_away_is_given_up_and_that_is_said(run: Run) -> None:
    tracker = Heard()
    rounds = run.rounds(1, tracker)
    tracker.away = True
    run.steps(1, 3.0)
    rounds.next(hold=0.0)
    run.now += LIMIT
    assert rounds.next(hold=0.0) and tracker.closed
    (said,) = run.complaints
    assert said == (
        "the tracker is told nothing more of this run by this leader: no route to host [SW6242]"
    )
    run.steps(2, 2.0)
    assert rounds.next(hold=0.0)
    assert run.losses() == [(1, 3.0), (2, 2.0)]


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


# --- the thread -------------------------------------------------------------------------


@pytest.fixture
def launched(run: Run) -> Iterator[Callable[..., Herald]]:
    heralds: list[Herald] = []

    def launch(every: float = 3600.0, **settings: object) -> Herald:
        about = {"id": "r-1", "spec": {"name": "digits"}, "settings": {"telemetry": settings}}
        run.directory.write_json("run.json", {**about, "format": 2})
        heralds.append(Herald(run.directory, 1, run.complaints.append, every))
        return heralds[-1]

    yield launch
    for one in heralds:
        one.close()
        one._thread.join()


def test_a_run_that_ends_is_told_to_its_last_step(
    run: Run, launched: Callable[..., Herald]
) -> None:
    one = launched()
    run.steps(1, 3.0)
    one.finish(2)
    run.steps(2, 2.0)  # written a moment after the end
    one.close()
    assert run.losses() == [(1, 3.0), (2, 2.0)] and run.complaints == []


def test_while_it_goes_on_it_is_told_again_and_again(
    run: Run, launched: Callable[..., Herald]
) -> None:
    run.steps(1, 3.0)
    launched(every=0.01)
    while not run.directory.store.names(TOLD):
        threading.Event().wait(0.01)
    assert run.losses() == [(1, 3.0)]


def test_nothing_is_written_where_nobody_wants_it(
    run: Run, launched: Callable[..., Herald]
) -> None:
    one = launched(tensorboard=False)
    run.steps(1, 3.0)
    one.finish(1)
    one.close()
    assert run.directory.store.names(LOGS) == [] and run.complaints == []


def test_a_folder_without_a_run_has_nothing_to_tell(run: Run) -> None:
    one = Herald(run.directory, 1, run.complaints.append)
    one._thread.join()
    assert run.complaints == [] and run.directory.store.names(LOGS) == []


@pytest.mark.parametrize("required", [False, True])
def test_without_the_library_that_is_said_where_the_job_asks_for_it(
    run: Run, launched: Callable[..., Herald], monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    monkeypatch.setattr(eventfile, "NEEDED", ("no_such_library",))
    one = launched(required=required)
    one.finish(0)
    one.close()
    said = (
        "no event files for TensorBoard are written: no_such_library is not installed in the "
        "image; add swell[board] [SW6241]"
    )
    assert run.complaints == ([said] if required else [])


def test_a_position_that_nobody_understands_ends_it_with_a_word(
    run: Run, launched: Callable[..., Herald]
) -> None:
    run.directory.write_json(f"{TOLD}/000000.json", {"late": 1})
    launched()._thread.join()
    (said,) = run.complaints
    assert said.startswith("nothing is told elsewhere of this run: ") and said.endswith("[SW6240]")
