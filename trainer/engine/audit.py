"""Which samples each worker contributed to which step: the evidence for "exactly once".

A line is written *before* a worker contributes, so that the contribution of a worker that is lost
a moment later is on record, too. A line counts as applied if its step belongs to its generation's
stretch of the run (see launcher.status.history). What is left out of a step after all has a second
line, with ``left_out``.

On a local disk the lines of a worker are appended to ``audit/<writer>.jsonl``. An object store
cannot append: there each is an object of its own, ``audit/<writer>/000000001.jsonl``, and every
step waits for that one write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.protocol.session import Session
from trainer.rundir.names import AUDIT
from trainer.rundir.private import make_private
from trainer.rundir.store import Store


class Audit:
    """The lines of one worker.

    Args:
        store: of the run directory.
        writer: tells this worker from all others.
    """

    def __init__(self, store: Store, writer: str) -> None:
        self._store = store
        self._name = f"{AUDIT}/{writer}"
        self._count = 0
        self._line: dict[str, Any] = {}
        self._file = None
        if store.is_local:
            path = Path(store.path(f"{self._name}.jsonl"))
            make_private(path.parent)
            self._file = path.open("a", encoding="ascii")

    @classmethod
    def open(cls, session: Session) -> Audit | None:
        """The audit of ``session``, or None when it asks for none."""
        run_dir = session.run_dir
        if run_dir is None or not session.audit:
            return None
        return cls(run_dir.store, session.writer)

    def contribute(
        self, generation: int, step: int, epoch: int, rank: int, ids: list[int], dataset_size: int
    ) -> None:
        """Notes that this rank is about to contribute ``ids`` to ``step`` (from 1).

        Raises OSError when the store does not take it: a step without evidence is not taken.
        """
        self._line = {
            "generation": generation,
            "step": step,
            "epoch": epoch,
            "rank": rank,
            "ids": ids,
            "dataset_size": dataset_size,
        }
        self._write(self._line)

    def leave_out(self) -> None:
        """Notes that what it was about to contribute last has become part of no step."""
        self._write({**self._line, "left_out": True})

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps(line) + "\n"
        if self._file is not None:
            self._file.write(text)
            self._file.flush()
        else:
            self._count += 1
            self._store.write(f"{self._name}/{self._count:09d}.jsonl", text.encode())
