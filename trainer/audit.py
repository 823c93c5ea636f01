"""Which samples each worker contributed to which step: the evidence for "exactly once".

A line is written *before* a worker contributes, so that the contribution of a worker
that is lost a moment later is on record, too. A line counts as applied if its step
belongs to its generation's stretch of the run (see launcher.status).
"""

from __future__ import annotations

import json
from pathlib import Path

from trainer.rundir import AUDIT
from trainer.session import Session


class Audit:
    """Appends lines to ``audit/<writer>.jsonl``. For run directories on a local disk only."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="ascii")

    @classmethod
    def open(cls, session: Session) -> Audit | None:
        """The audit of ``session``, or None when it asks for none.

        Raises ValueError when the run directory is an object store, which cannot append.
        """
        run_dir = session.run_dir
        if run_dir is None or not session.audit:
            return None
        if not run_dir.store.is_local:
            raise ValueError(f"audit: true needs a local run directory, not {run_dir.url}")
        return cls(Path(run_dir.store.path(f"{AUDIT}/{session.writer}.jsonl")))

    def contribute(
        self, generation: int, step: int, epoch: int, rank: int, ids: list[int], dataset_size: int
    ) -> None:
        """Notes that this rank is about to contribute ``ids`` to ``step`` (from 1)."""
        line = {
            "generation": generation,
            "step": step,
            "epoch": epoch,
            "rank": rank,
            "ids": ids,
            "dataset_size": dataset_size,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
