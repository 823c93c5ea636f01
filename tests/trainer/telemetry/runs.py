"""A run whose time a test sets, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tests.trainer.telemetry.test_board import read
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter
from trainer.telemetry.board import LOGS, Board
from trainer.telemetry.curves import Point
from trainer.telemetry.position import last_position
from trainer.telemetry.rounds import Rounds, Teller


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

    def rounds(self, term: int, teller: Teller | None = None, who: str = "") -> Rounds:
        """Those of a leader, with a teller; by default a board."""
        position = last_position(self.directory, term, who)
        teller = teller or Board(self.directory.store, term, position.curves.step)
        clocks: list[Callable[[], float]] = [lambda: self.now, lambda: self.now]
        complain = self.complaints.append
        return Rounds(self.directory, term, position, teller, complain, who, *clocks)

    def losses(self) -> list[tuple[int, float]]:
        return read(Path(self.directory.url) / LOGS)["train/loss"]


class Heard:
    """A teller that keeps what it is told.

    Attributes:
        takes: how many points more it takes; None for all.
        kept: what it could not take.
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.kept: list[Point] = []
        self.takes: int | None = None

    def __str__(self) -> str:
        return "the tracker"

    @property
    def steps(self) -> list[int]:
        return [point.step for point in self.points]

    def tell(self, points: Sequence[Point]) -> None:
        self.kept += points
        taken, self.kept = self.kept[: self.takes], self.kept[len(self.kept[: self.takes]) :]
        self.points += taken
        if self.kept:
            self.takes = 0
            raise OSError("no route to host")

    def close(self) -> None:
        """Nothing is left open."""
