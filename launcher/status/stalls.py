"""When a run stands still for so long that somebody wants to hear of it, and when that is over.

What it waits for may change meanwhile (machines, then a leader, then its program): that is one
stall, told of once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from launcher.status.history import History
from launcher.status.waits import Wait
from launcher.supervision.attempt import read_attempts
from launcher.words import at_clock, span
from trainer.rundir import clock
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader

TOLD_AFTER = 300.0  # seconds of waiting

Message = dict[str, Any]


class Lookout:
    """Looks now and then whether a run stands still, or goes on again.

    Args:
        run_dir: the run.
        created: when it was, in Unix seconds.
        clock: returns Unix seconds.
    """

    def __init__(
        self, run_dir: RunDirectory, created: float, clock: Callable[[], float] = clock.now
    ) -> None:
        self._run_dir = run_dir
        self._created = created
        self._clock = clock
        self._reader = EventReader(run_dir, brief=True)
        self._history = History()
        self._stalls = Stalls()

    def look(self) -> Message | None:
        """Returns what is to be told; None most of the time, and once the run has ended.

        Raises OSError and ValueError when the run directory cannot be read.
        """
        history = self._history
        for event in self._reader.read_new():
            history.add(event)
        attempts = read_attempts(self._run_dir)
        if self._run_dir.outcome() is not None:  # that is told by itself
            return None
        wait = history.unled(attempts, self._created) or history.held_up
        return self._stalls.look(wait, history.stepped_at, self._clock())


class Stalls:
    """Knows whether a stall was told of. Pure."""

    def __init__(self) -> None:
        self._since: float | None = None  # of the stall that was told of

    def look(self, wait: Wait | None, went_on_at: float, now: float) -> Message | None:
        """Returns what is to be told; None most of the time.

        Args:
            wait: what the run waits for.
            went_on_at: when steps were seen last; -inf before the first. In Unix seconds, as
                ``now``.
            now: the time.
        """
        if self._since is None:
            if wait is None or now - wait.since < TOLD_AFTER:
                return None
            self._since = wait.since
            return _begun(wait, now)
        if wait is not None or went_on_at < self._since:  # between two waits there may be none
            return None
        since, self._since = self._since, None
        told = f"goes on after {span(went_on_at - since)} without a step"
        return {"text": told, "news": "stall", "over": True, "since": since, "until": went_on_at}


def _begun(wait: Wait, now: float) -> Message:
    return {
        "text": f"is {wait.in_words(now)} (since {at_clock(wait.since)})",
        "news": "stall",
        "over": False,
        "waits_for": wait.what,
        "since": wait.since,
        "until": wait.until if math.isfinite(wait.until) else None,
        "then": wait.then,
    }
