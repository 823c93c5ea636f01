"""What is told to one teller, round by round, once and in order.

Of events that are told at last, others of about the same time may still be on their way from other
machines: the newest wait for them, HOLD seconds.

A teller that fails keeps what it was given, and is given nothing more until it has told that: what
follows waits where it is safe, in the run's events. How far it has come is written only then, so
that whoever leads next goes on there, too, however long it has failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from trainer.rundir import clock
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader
from trainer.rundir.usererror import Message
from trainer.telemetry.curves import Point
from trainer.telemetry.position import Position
from trainer.telemetry.traces import Reformations

HOLD = 2.0  # seconds
LIMIT = 120.0  # seconds in which a teller may fail before anybody is told

log = logging.getLogger("swell.coordinator")


class Teller(Protocol):
    """Where points are told."""

    def tell(self, points: Sequence[Point]) -> None:
        """Tells them, after what it has kept. Raises OSError; what is not told then it keeps."""

    def close(self) -> None:
        """Nothing is told any more."""


class Rounds:
    """Tells what is new, round by round.

    Args:
        run_dir: the run.
        term: the leader's.
        position: where it begins.
        teller: who is told.
        complain: called with what is wrong, in words.
        who: the teller's name in the names of its positions; "" for the board.
        now: Unix seconds.
        monotonic: seconds, for limits.

    Attributes:
        stays_away: whether the teller has failed for so long that somebody was told.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        term: int,
        position: Position,
        teller: Teller,
        complain: Callable[[str], object],
        who: str = "",
        now: Callable[[], float] = clock.now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = run_dir
        self._term = term
        self._position = position
        self._reader = EventReader(run_dir, seen=position.seen)
        self._teller = teller
        self._complain = complain
        self._who = who
        self._now = now
        self._monotonic = monotonic
        self._failing: float | None = None  # since when
        self._unwritten = False  # whether the position is ahead of the one in the run directory
        self._reformations = Reformations()
        self.stays_away = False

    @property
    def step(self) -> int:
        """The newest step that is told, or kept by the teller."""
        return self._position.curves.step

    def next(self, hold: float = HOLD) -> bool:
        """Tells what is new, but for the newest. Returns whether the teller has taken all.

        Args:
            hold: seconds for which the newest wait.

        Raises ValueError for events that nobody can read.
        """
        if self._failing is not None and not self._tell(()):
            return False
        try:
            events = [*self._position.late, *self._reader.read_new()]
        except OSError as error:  # the next round may do
            log.info("the run's events were not read: %s", error)
            return False
        events.sort(key=lambda one: float(one["time"]))
        until = self._now() - hold
        self._position.late = [one for one in events if float(one["time"]) > until]
        due = [one for one in events if float(one["time"]) <= until]
        points = [*self._position.curves.take(due), *self._reformations.take(due)]
        if points and not self._tell(points):
            return False
        if self._unwritten:  # while nothing happens, nothing is
            self._write()
        return True

    def close(self) -> None:
        """Tells nothing any more; what was not told, the next leader can tell."""
        if self._failing is not None:
            log.warning("%s has not taken all that there was to tell of this run", self._teller)
        self._teller.close()

    def _tell(self, points: Sequence[Point]) -> bool:
        self._unwritten = True
        try:
            self._teller.tell(points)
        except OSError as error:
            since = self._failing = self._monotonic() if self._failing is None else self._failing
            if not self.stays_away and self._monotonic() - since >= LIMIT:
                self.stays_away = True
                what = f"{self._teller} takes nothing of this run, and is told all later: {error}"
                self._complain(str(Message("SW6242", what)))
            return False
        self._failing, self.stays_away = None, False
        return True

    def _write(self) -> None:
        try:
            self._position.write(self._run_dir, self._term, self._who)
        except OSError as error:
            log.info("how far the run is told of was not written: %s", error)
        else:
            self._unwritten = False
