"""The herald: it tells those who look elsewhere what a run's events say, beside the leader.

In threads of the leader's process, which trains nothing and is one at a time, as a rule: one for
each teller, so that none waits for another. Each reads the events that all have written, as anybody
could, and puts down how far it has come, so whoever leads next goes on there
(trainer.telemetry.rounds).
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from trainer.rundir.directory import RunDirectory
from trainer.rundir.usererror import Message
from trainer.telemetry import eventfile
from trainer.telemetry.apart import Apart
from trainer.telemetry.board import Board
from trainer.telemetry.position import last_position
from trainer.telemetry.rounds import Rounds
from trainer.telemetry.settings import Subject, subject_of

EVERY = 10.0  # seconds between rounds; each writes two or three objects
SELDOM = 300.0  # seconds between those of a teller that stays away
LAST = 1.5  # seconds for the last round, when the run has ended
LOOK_AGAIN = 0.1  # seconds between two looks for its last events

log = logging.getLogger("swell.coordinator")


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
            all_rounds = list(self._rounds(subject))
        except (OSError, ValueError, TypeError) as error:
            self._complain(
                str(Message("SW6240", f"nothing is told elsewhere of this run: {error}"))
            )
            return
        threads = [
            threading.Thread(target=self._tell, args=(one,), name="swell-herald", daemon=True)
            for one in all_rounds
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

    def _tell(self, rounds: Rounds) -> None:
        """Round after round, to one of them."""
        try:
            while not self._over.wait(max(self._every, SELDOM * rounds.stays_away)):
                rounds.next()
            if self._last is not None:
                self._finish(rounds, self._last)
        except ValueError as error:
            log.warning("the run's events cannot be read, and are not told elsewhere: %s", error)
        finally:
            rounds.close()

    def _finish(self, rounds: Rounds, step: int) -> None:
        """What agents write at the end may take a moment to be there."""
        until = time.monotonic() + LAST
        while not rounds.next(hold=0.0) or rounds.step < step:
            if time.monotonic() > until - LOOK_AGAIN:
                return
            time.sleep(LOOK_AGAIN)

    def _rounds(self, subject: Subject) -> Iterator[Rounds]:
        settings = subject.settings
        if settings.tensorboard:
            try:
                for module in eventfile.NEEDED:
                    importlib.import_module(module)
                position = last_position(self._run_dir, self._term)
                board = Board(self._run_dir.store, self._term, position.curves.step)
                yield Rounds(self._run_dir, self._term, position, board, self._complain)
            except ImportError as error:
                why = f"no event files for TensorBoard are written: {error.name} is not installed"
                if settings.required:
                    self._complain(str(Message("SW6241", f"{why} in the image; add swell[board]")))
                else:
                    log.info("%s", why)
        for kind in ("wandb", "mlflow", "traces"):
            if where := getattr(settings, kind):
                tracker = Apart(kind, where, subject.id, subject.name)
                position = last_position(self._run_dir, self._term, kind)
                yield Rounds(self._run_dir, self._term, position, tracker, self._complain, kind)
