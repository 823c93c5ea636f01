"""The newest lines of a run's log, as it goes on: for views that show an end of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from launcher import home
from launcher.logs.logline import Line
from launcher.logs.reader import Log, open_log
from trainer.rundir.directory import RunDirectory


class Newest:
    """The end of a log.

    Args:
        directory: the run's.
        replica: only this one's lines; None for everybody's.
        most: how many lines are kept.
        clock: seconds that never go back.

    Attributes:
        lines: the newest.
        left: how many there were before them.
        why: why there are none; empty where there may be some.
    """

    def __init__(
        self,
        directory: RunDirectory,
        replica: str | None,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lines: deque[Line] = deque(maxlen=most)
        self.left = 0
        self.why = ""
        self._directory = directory
        self._replica = replica
        self._clock = clock
        self._log: Log | None = None
        self._due = 0.0

    def look(self) -> None:
        """Takes in lines that are new; not more often than the log may be read.

        Raises ApiError and OSError.
        """
        try:
            self._log = self._log or open_log(self._directory, self._replica, None)
        except home.RunError as error:  # of another machine, or it has no VMs yet
            self.why = str(error.messages[0])
            return
        self.why = ""
        if self._clock() < self._due:
            return
        for line in self._log.read_new():
            self.left += len(self.lines) == self.lines.maxlen
            self.lines.append(line)
        self._due = self._clock() + self._log.poll
