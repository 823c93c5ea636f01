"""An API or a store that does not answer: since when, why, and for how long it is asked yet.

Whoever waits for it cannot tell: the call has not come back. So it says here what it asks for, and
others read here, from other threads, what to tell the person who waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from launcher.api.reach import SAY_AFTER

# Seconds that one question counts for at most. A launch that was stopped for an hour, in the middle
# of one, has not asked for an hour.
LONGEST = 120.0


class Silence:
    """Somebody who is asked again and again, by one thread.

    Args:
        patience: seconds without an answer after which it is given up; None for never.
        ticks: monotonic seconds.

    Attributes:
        patience: see there; may be changed.
    """

    def __init__(
        self, patience: float | None = None, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        self.patience = patience
        self._ticks = ticks
        self._question: tuple[str, float] | None = None  # what nobody has answered; when it began
        self._limit: float | None = None
        self._counted = 0.0  # seconds of asking, up to the last failure
        self._failed = 0.0  # when that was
        self._why = ""

    def ask(self, wanted: str, limit: float | None = None) -> None:
        """A question begins, or is asked again.

        Args:
            wanted: what has not come while nobody answers: ``https://e has not …``.
            limit: seconds for which it is asked, if not the patience.
        """
        if self._question is None or self._question[0] != wanted:
            if self._question is None:
                self._counted, self._failed, self._why = 0.0, self._ticks(), ""
            self._limit = limit
            self._question = wanted, self._ticks()

    def answered(self) -> None:
        """It was answered."""
        self._question = None

    def failed(self, why: str) -> bool:
        """It was not. Returns whether it is to be given up."""
        now = self._ticks()
        self._counted += min(now - self._failed, LONGEST)
        self._failed = now
        self._why = self._why or why  # the first: the next may differ in what says nothing
        return self.patience is not None and self._counted > self.patience

    def told(self) -> list[str]:
        """The lines for whoever waits; none while it answers. They stay the same meanwhile."""
        question, why = self._question, self._why
        if question is None or self._ticks() - question[1] < SAY_AFTER:
            return []
        limit = self.patience if self._limit is None else self._limit
        left = "asking until it does"
        if limit is not None:
            left = f"trying for {max(0.0, limit - SAY_AFTER):.0f} s more"
        return [f"{question[0]} for {SAY_AFTER:.0f} s; {left}", *([why] if why else [])]
