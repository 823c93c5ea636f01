"""A run's figures for Prometheus, by prometheus_client: those of ``swell status``, by its words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from launcher.run_states import STATES
from trainer.rundir.events import CAUSES
from trainer.rundir.numbers import number_in, numbers_in

if TYPE_CHECKING:
    from prometheus_client import Metric

FRESH = 5.0  # seconds for which what was read is answered again
SHARE = 10  # of the time it may be read, at most: of a large run that takes seconds

Status = Mapping[str, Any]
_COUNTS = {
    "drains": "Replicas that left with notice",
    "losses": "Replicas that went without notice",
    "steps_lost": "Completed steps that had to be done again",
    "steps_left_out": "Steps in which something was not finite",
}


class Exposition:
    """What Prometheus gets of one run.

    Args:
        run: the run's id.
        read: reads its status.
        clock: monotonic seconds.
    """

    def __init__(
        self, run: str, read: Callable[[], Status], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run = run
        self._read = read
        self._clock = clock
        self._status: Status = {}
        self._until = -1.0

    def collect(self) -> Iterator[Metric]:
        """All figures, as prometheus_client asks for them. What is not known is left out."""
        status = self._newest()
        yield self._gauge(
            "up", "Whether the run directory could be read", {"": float(bool(status))}
        )
        if not status:
            return
        states = {state: float(state == status.get("state")) for state in STATES}
        yield self._gauge("state", "1 for the state that the run is in", states, "state")
        generations = status.get("generations") or [{}]
        spent, ledger = status.get("spent") or {}, status.get("ledger") or {}
        for name, what, value in (
            ("step", "Steps completed", status.get("step")),
            ("world_size", "Workers of the newest world", generations[-1].get("world_size")),
            ("generations", "Worlds that were formed", len(status.get("generations") or ())),
            ("goodput", "Part of the time of the VMs that was training", status.get("goodput")),
            ("usd", "What the attempts have cost, by estimate", spent.get("usd")),
            ("attempts", "CustomJobs that were submitted", spent.get("attempts")),
            (
                "checkpoint_age_seconds",
                "Of the newest checkpoint",
                (status.get("checkpoint") or {}).get("age"),
            ),
            ("troubles", "What is wrong while it goes on", len(status.get("troubles") or ())),
        ):
            if (number := number_in(value)) is not None:
                yield self._gauge(name, what, {"": float(number)})
        for name, what in _COUNTS.items():
            if (number := number_in(status.get(name))) is not None:
                yield self._gauge(name, what, {"": float(number)})
        paused = _paused(status.get("pauses"))
        yield self._gauge("paused_seconds", "Pauses, by what they came from", paused, "cause")
        seconds = "Of VMs that were wanted, by what they went into"
        yield self._gauge("ledger_seconds", seconds, numbers_in(ledger.get("seconds")), "account")
        speed = "A second, in the newest steps, or of all once it is over; parts: mfu, data_wait"
        yield self._gauge("speed", speed, numbers_in(status.get("speed")), "of")
        metrics = numbers_in(status.get("metrics"))
        yield self._gauge("metric", "The newest value of a metric of the task", metrics, "name")

    def _newest(self) -> Status:
        began = self._clock()
        if began >= self._until:
            try:
                self._status = self._read()
            except (OSError, ValueError):
                self._status = {}
            took = self._clock() - began
            self._until = began + max(FRESH, SHARE * took)
        return self._status

    def _gauge(self, name: str, what: str, told: Mapping[str, float], by: str = "") -> Metric:
        from prometheus_client.core import GaugeMetricFamily

        labels = ["run", by] if by else ["run"]
        family = GaugeMetricFamily(f"swell_run_{name}", what, labels=labels)
        for one, value in told.items():
            family.add_metric([self._run, one] if by else [self._run], value)
        return family


def _paused(pauses: Sequence[Mapping[str, Any]] | None) -> dict[str, float]:
    """Seconds of pauses by cause. What has caused none has a series, too: a first one is a rise."""
    if pauses is None:
        return {}
    total: dict[str, float] = dict.fromkeys(CAUSES, 0.0)
    for one in pauses:
        cause, seconds = str(one.get("cause")), number_in(one.get("seconds"))
        total[cause] = total.get(cause, 0.0) + float(seconds or 0.0)
    return total
