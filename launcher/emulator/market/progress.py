"""How far a run is, read from its run directory: what step-triggered incidents wait for."""

from __future__ import annotations

import logging

from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, EventReader

log = logging.getLogger(__name__)


class StepReader:
    """Follows the ``steps`` events of one run.

    Args:
        url: the run directory, or None if the job has none (then no step ever completes).
    """

    def __init__(self, url: str | None) -> None:
        self._events = EventReader(RunDirectory(url), brief=True) if url else None
        self._completed = 0

    def completed(self) -> int:
        """Returns the last completed step so far; 0 before the first. Blocks while it reads."""
        if self._events:
            try:
                events = self._events.read_new()
            except (OSError, ValueError) as error:
                log.warning("cannot read the run's events: %s", error)
            else:
                self._completed = max([self._completed, *map(last_step, events)])
        return self._completed


def last_step(event: Event) -> int:
    """The last step that a ``steps`` event reports; 0 for any other event."""
    first, metrics = event.get("first"), event.get("metrics")
    if event["event"] != "steps" or not isinstance(first, int) or not isinstance(metrics, dict):
        return 0
    lengths = [len(values) for values in metrics.values() if isinstance(values, list)]
    if isinstance(count := event.get("count"), int):
        lengths.append(count)
    return first + max(lengths) - 1 if lengths else 0
