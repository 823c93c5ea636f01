"""When a run stands still for so long that somebody wants to hear of it, and when that is over.

What else somebody wants to hear of meanwhile is in launcher.status.alerts.

What it waits for may change meanwhile (machines, then a leader, then its program): that is one
stall, told of once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from launcher.status.alerts import Alerts, Message, Terms
from launcher.status.history import History
from launcher.status.waits import Wait
from launcher.supervision.attempt import Attempt, read_attempts
from launcher.supervision.limits import spent
from launcher.words import at_clock, span
from trainer.rundir import clock
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader

TOLD_AFTER = 300.0  # seconds of waiting


class Lookout:
    """Looks now and then whether a run stands still, or goes on again, and at what else is news.

    Args:
        run_dir: the run.
        created: when it was, in Unix seconds.
        clock: returns Unix seconds.
        terms: when else there is something to tell; by default of stragglers alone.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        created: float,
        clock: Callable[[], float] = clock.now,
        terms: Terms | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._created = created
        self._clock = clock
        self._reader = EventReader(run_dir, brief=True)
        self._history = History()
        self._stalls = Stalls()
        self._alerts = Alerts(terms or Terms())

    def look(self) -> list[Message]:
        """Returns what is to be told: nothing most of the time, and once the run has ended.

        Raises OSError and ValueError when the run directory cannot be read.
        """
        history = self._history
        for event in self._reader.read_new():
            history.add(event)
        attempts = read_attempts(self._run_dir)
        if self._run_dir.outcome() is not None:  # that is told by itself
            return []
        now = self._clock()
        usd = spent([Attempt.from_json(one) for one in attempts], now).usd
        wait = history.unled(attempts, self._created) or history.held_up
        stall = self._stalls.look(wait, history.stepped_at, now)
        return [*([stall] if stall else []), *self._alerts.look(history, usd, now)]


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
