"""The herald: it tells those who look elsewhere what a run's events say, beside the leader.

In a thread of the leader's process, which trains nothing and is one at a time, as a rule. It reads
the events that all have written, as anybody could, so whoever leads next goes on where it has come
to (trainer.telemetry.position). Of events that are told at last, others of about the same time may
still be on their way from other machines: the newest wait for them, HOLD seconds.

A teller that fails is asked again in the next round, with all that it has not been told; the others
wait for it, for LIMIT seconds in all, and after that it is given up and a message says so.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from trainer.rundir import clock
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader
from trainer.rundir.usererror import Message
from trainer.telemetry import eventfile
from trainer.telemetry.apart import Apart
from trainer.telemetry.board import Board
from trainer.telemetry.curves import Point
from trainer.telemetry.position import Position, last_position
from trainer.telemetry.settings import Subject, subject_of
from trainer.telemetry.traces import Reformations

EVERY = 10.0  # seconds between rounds; each writes two or three objects
HOLD = 2.0  # seconds
LIMIT = 120.0  # seconds in which a teller may fail
LAST = 1.5  # seconds for the last round, when the run has ended
LOOK_AGAIN = 0.1  # seconds between two looks for its last events

log = logging.getLogger("swell.coordinator")


class Teller(Protocol):
    """Where points are told."""

    def tell(self, points: Sequence[Point]) -> None:
        """Tells them. Raises OSError; what it has not kept, the next call has once more."""

    def close(self) -> None:
        """Nothing is told any more."""


class Herald:
    """Tells of a run from the moment it is made, until it is closed.

    Args:
        run_dir: the run.
        term: of the leader that it is beside.
        complain: called with what is wrong, in words, once each.
        every: seconds between rounds.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        term: int,
        complain: Callable[[str], object],
        every: float = EVERY,
    ) -> None:
        self._run_dir = run_dir
        self._term = term
        self._complain = complain
        self._every = every
        self._over = threading.Event()
        self._last: int | None = None  # the run's last step, once it has ended
        self._thread = threading.Thread(target=self._work, name="swell-herald", daemon=True)
        self._thread.start()

    def finish(self, step: int) -> None:
        """The run has ended with this step: a last round begins. Does not wait for it."""
        self._last = step
        self._over.set()

    def close(self) -> None:
        """Begins no further round, and waits for the last one of a run that has ended."""
        self._over.set()
        if self._last is not None:
            self._thread.join(LAST)

    def _work(self) -> None:
        try:
            subject = subject_of(self._run_dir)
            if subject is None:
                return
            position = last_position(self._run_dir, self._term)
            tellers = list(self._tellers(subject, position.curves.step))
        except (OSError, ValueError, TypeError) as error:
            self._complain(
                str(Message("SW6240", f"nothing is told elsewhere of this run: {error}"))
            )
            return
        rounds = Rounds(self._run_dir, self._term, position, tellers, self._complain)
        try:
            while tellers and not self._over.wait(self._every):
                rounds.next()
            if tellers and self._last is not None:
                self._finish(rounds, self._last)
        except ValueError as error:
            log.warning("the run's events cannot be read, and are not told elsewhere: %s", error)
        finally:
            for one in tellers:
                one.close()

    def _finish(self, rounds: Rounds, step: int) -> None:
        """What agents write at the end may take a moment to be there."""
        until = time.monotonic() + LAST
        while not rounds.next(hold=0.0) or rounds.step < step:
            if time.monotonic() > until - LOOK_AGAIN:
                return
            time.sleep(LOOK_AGAIN)

    def _tellers(self, subject: Subject, step: int) -> Iterator[Teller]:
        settings = subject.settings
        if settings.tensorboard:
            try:
                for module in eventfile.NEEDED:
                    importlib.import_module(module)
                yield Board(self._run_dir.store, self._term, step)
            except ImportError as error:
                why = f"no event files for TensorBoard are written: {error.name} is not installed"
                if settings.required:
                    self._complain(str(Message("SW6241", f"{why} in the image; add swell[board]")))
                else:
                    log.info("%s", why)
        for kind in ("wandb", "mlflow", "traces"):
            if where := getattr(settings, kind):
                yield Apart(kind, where, subject.id, subject.name)


class Rounds:
    """Tells what is new, round by round.

    Args:
        run_dir: the run.
        term: the leader's.
        position: where it begins.
        tellers: who is told; those that are given up are taken out.
        complain: called with what is wrong.
        now: Unix seconds.
        monotonic: seconds, for limits.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        term: int,
        position: Position,
        tellers: list[Teller],
        complain: Callable[[str], object],
        now: Callable[[], float] = clock.now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = run_dir
        self._term = term
        self._position = position
        self._reader = EventReader(run_dir, seen=position.seen)
        self._tellers = tellers
        self._complain = complain
        self._now = now
        self._monotonic = monotonic
        self._untold: dict[int, list[Point]] = {}  # by the place of a teller: what it has not taken
        self._failing: dict[int, float] = {}  # since when
        self._told = False
        self._reformations = Reformations()

    @property
    def step(self) -> int:
        """The newest step that is told."""
        return self._position.curves.step

    def next(self, hold: float = HOLD) -> bool:
        """Tells what is new, but for the newest. Returns whether everybody has taken all.

        Args:
            hold: seconds for which the newest wait.

        Raises ValueError for events that nobody can read.
        """
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
        whole = all([self._tell(one, points) for one in list(self._tellers)])
        if whole and (points or self._told):
            self._told = True
            try:
                self._position.write(self._run_dir, self._term)
            except OSError as error:
                log.info("how far the run is told of was not written: %s", error)
        return whole

    def _tell(self, teller: Teller, points: list[Point]) -> bool:
        key = id(teller)
        waiting = [*self._untold.pop(key, []), *points]
        try:
            teller.tell(waiting)
        except OSError as error:
            since = self._failing.setdefault(key, self._monotonic())
            if self._monotonic() - since < LIMIT:
                self._untold[key] = waiting
                return False
            self._tellers.remove(teller)
            teller.close()
            what = f"{teller} is told nothing more of this run by this leader: {error}"
            self._complain(str(Message("SW6242", what)))
        self._failing.pop(key, None)
        return True
