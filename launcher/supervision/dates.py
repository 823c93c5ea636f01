"""Dates on record, as one of those who look after a run has them.

A launch, an attach and controllers write them by clocks of their own, and an API by another one; so
nobody's date may be taken for one that is still to come.
"""

from __future__ import annotations

from collections.abc import Callable

from launcher.api.vertex import JobState


class Dates:
    """The clock that is ahead of those of all who have looked after a run.

    Args:
        clock: returns Unix seconds; see trainer.rundir.clock.
        ticks: returns seconds that pass alike.
    """

    def __init__(self, clock: Callable[[], float], ticks: Callable[[], float]) -> None:
        self._clock, self._ticks = clock, ticks
        self._behind = 0.0  # seconds by which the clock is behind what is on record
        self._since: dict[str, float] = {}  # when something was first seen here

    def now(self) -> float:
        """Unix seconds, by that clock: else what has happened would be still to come here, and a
        pause after it."""
        return self._clock() + self._behind

    def read(self, *dates: float | None) -> None:
        """Takes note of what is on record."""
        self._behind = max(self._behind, max(one or 0.0 for one in dates) - self._clock())

    def since(self, what: str) -> float:
        """Seconds since ``what`` was first seen here: clocks of machines are not compared."""
        now = self._ticks()
        return now - self._since.setdefault(what, now)

    def of(self, job: JobState, submitted: float | None, at: float) -> float:
        """A date of the API's, by the clock that its CustomJob was submitted by: the two may be an
        hour apart. 0 for none, and never one that is still to come.

        Args:
            job: what the API has told.
            submitted: when the API had taken it, as is on record.
            at: the date.
        """
        ahead = submitted - job.created if submitted and job.created else 0.0
        return min(at + ahead, self.now()) if at else 0.0

    def start_of(
        self, job: JobState, submitted: float | None, started: float | None
    ) -> float | None:
        """When a CustomJob began to run; None if it has not. What is on record stays."""
        found = started or self.of(job, submitted, job.started) or None
        return self.now() if found is None and job.state == "RUNNING" else found
