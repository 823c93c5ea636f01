"""Deleting checkpoints: those that are not kept any more, and what crashed writers left.

A checkpoint's manifest goes first, so that what is left of it is no checkpoint. A folder
without a manifest may be one that another leader is writing this very moment, so it goes
only when nothing in it has changed for a long time, by this process's own clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.checkpoints.manifest import (
    MANIFEST,
    METRICS,
    RECEIPT,
    folder_of,
    folders,
    read_metrics,
)
from trainer.checkpoints.retention import Retention
from trainer.rundir.directory import RunDirectory

STALE = 600.0  # seconds without a change


class Leftovers:
    """Tidies the checkpoints of a run, now and then.

    Args:
        run_dir: the directory that has them.
        clock: monotonic seconds.
    """

    def __init__(self, run_dir: RunDirectory, clock: Callable[[], float]) -> None:
        self._run_dir = run_dir
        self._clock = clock
        self._metrics: dict[int, tuple[bool, dict[str, Any]]] = {}
        self._seen: dict[int, tuple[list[str], float]] = {}

    def forget(self) -> None:
        """Steps that have had checkpoints may get others, or other metrics."""
        self._metrics.clear()

    def tidy(self, written: int, retention: Retention, good: int | None = None) -> None:
        """Deletes what ``retention`` does not keep, now that ``written`` is there.

        Args:
            written, good: see ``Retention.surplus``.
            retention: the rule.

        Raises OSError; what was not deleted is at the next time.
        """
        found = folders(self._run_dir)
        metrics = {
            step: self._metrics_of(step, names, retention)
            for step, names in found.items()
            if MANIFEST in names
        }
        if written not in metrics:
            return  # the newest has gone: whatever is the matter, nothing is deleted
        for step in retention.surplus(written, metrics, good):
            delete(self._run_dir, step)
        self._tidy_receipts(written, found[written])
        self._collect({s: names for s, names in found.items() if MANIFEST not in names})

    def _metrics_of(self, step: int, names: list[str], retention: Retention) -> dict[str, Any]:
        if not retention.best:
            return {}
        known = self._metrics.get(step)
        if known is None or known[0] != (METRICS in names):  # it was evaluated only later
            known = METRICS in names, read_metrics(self._run_dir, step, names)
            self._metrics[step] = known
        return known[1]

    def _tidy_receipts(self, step: int, names: list[str]) -> None:
        for name in names:
            if name.startswith(RECEIPT):
                self._run_dir.store.delete(f"{folder_of(step)}/{name}")

    def _collect(self, unfinished: dict[int, list[str]]) -> None:
        now = self._clock()
        seen = {}
        for step, names in unfinished.items():
            before, since = self._seen.get(step, ([], now))
            if names != before:
                since = now
            if now - since >= STALE:
                self._run_dir.store.delete(folder_of(step))
            else:
                seen[step] = (names, since)
        self._seen = seen


def delete(run_dir: RunDirectory, step: int) -> None:
    """Deletes a checkpoint. Raises OSError."""
    run_dir.store.delete(f"{folder_of(step)}/{MANIFEST}")
    run_dir.store.delete(folder_of(step))
