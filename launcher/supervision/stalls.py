"""When a run stands still for so long that somebody wants to hear of it, and when that is over.

Pure. What it waits for may change meanwhile (machines, then a leader, then its program): that is
one stall, told of once.
"""

from __future__ import annotations

import math
from typing import Any

from launcher.status.waits import Wait
from launcher.words import at_clock, span

TOLD_AFTER = 300.0  # seconds of waiting

Message = dict[str, Any]


class Stalls:
    """Knows whether a stall was told of."""

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
