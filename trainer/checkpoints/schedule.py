"""When a checkpoint is due: by time, by steps, or by whichever comes first."""

from __future__ import annotations

import time
from collections.abc import Callable

AGAIN = 60.0  # seconds after which one that failed is tried again


class Schedule:
    """Counts from the last checkpoint, or from its own beginning.

    Args:
        seconds: between checkpoints; 0 for none by time.
        steps: between checkpoints; 0 for none by steps.
        clock: monotonic seconds.
    """

    def __init__(
        self, seconds: float, steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._steps = steps
        self._clock = clock
        self._since = clock()
        self._saved = 0

    def due(self, step: int, failed: bool = False) -> bool:
        """Whether the state after ``step`` is to be saved; sooner if the last one ``failed``."""
        passed = self._clock() - self._since
        if (self._seconds and passed >= self._seconds) or (failed and passed >= AGAIN):
            return True
        # At multiples: after a resumed run, too, the steps are those that one expects.
        return bool(self._steps) and step // self._steps > self._saved // self._steps

    def saved(self, step: int) -> None:
        """The state after ``step`` is being saved, or was loaded."""
        self._since = self._clock()
        self._saved = step
