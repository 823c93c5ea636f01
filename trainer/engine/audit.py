"""Which samples each worker contributed to which step: the evidence for "exactly once".

A line is written *before* a worker contributes, so that the contribution of a worker that is lost
a moment later is on record, too. A line counts as applied if its step belongs to its generation's
stretch of the run (see launcher.status.history). What is left out of a step after all has a second
line, with ``left_out``; so has what nobody has applied of a step that comes again in the same
generation, with ``withdrawn``.

On a local disk the lines of a worker are appended to ``audit/<writer>.jsonl``. An object store
cannot append: there each is an object of its own, ``audit/<writer>/000000001.jsonl``, and every
step waits for that one write. What the store does not take is held, and training goes on: it is
written together with a later line, or the end of the run says what is missing.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.engine.plan import Plan
from trainer.protocol.session import Session
from trainer.rundir.names import AUDIT
from trainer.rundir.private import make_private
from trainer.rundir.retry import AGAIN
from trainer.rundir.store import Store
from trainer.rundir.usererror import Message

HELD = 2**26  # bytes of lines; those that come after are given up


class Audit:
    """The lines of one worker.

    Args:
        store: of the run directory.
        writer: tells this worker from all others.
        report: called as ``report("audit_failed", step=…, reason=…)`` when lines begin to wait.
        held: bytes of lines that wait at the most.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        writer: str,
        report: Callable[..., None] = lambda event, **fields: None,
        *,
        held: int = HELD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._name = f"{AUDIT}/{writer}"
        self._report = report
        self._limit = held
        self._clock = clock
        self._count = 0
        self._line: dict[str, Any] = {}
        self._held: list[bytes] = []
        self._size = 0  # theirs
        self._lost = 0  # lines that were given up
        self._since = 0  # the first step of those that wait or were given up
        self._why = ""
        self._again = 0.0  # not before this time of the clock

    @classmethod
    def open(cls, session: Session, report: Callable[..., None]) -> Audit | None:
        """The audit of ``session``, or None when it asks for none."""
        run_dir = session.run_dir
        if run_dir is None or not session.audit:
            return None
        return cls(run_dir.store, session.writer, report)

    def contribute(
        self, generation: int, step: int, epoch: int, rank: int, ids: list[int], dataset_size: int
    ) -> None:
        """Notes that this rank is about to contribute ``ids`` to ``step`` (from 1)."""
        self._line = {
            "generation": generation,
            "step": step,
            "epoch": epoch,
            "rank": rank,
            "ids": ids,
            "dataset_size": dataset_size,
        }
        self._note(self._line)

    def take(self, generation: int, plan: Plan, dataset_size: int) -> None:
        """Notes that a rank is about to contribute its share of a step."""
        ids, place = plan.indices.tolist(), (generation, plan.number, plan.epoch, plan.rank)
        self.contribute(*place, ids, dataset_size)

    def leave_out(self) -> None:
        """Notes that what it was about to contribute last has become part of no step."""
        self._note({**self._line, "left_out": True})

    def withdraw(self) -> None:
        """Notes that it has contributed nothing: the same step comes again in its generation."""
        self._note({**self._line, "withdrawn": True})

    def _note(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        if not self._since:
            self._since = line["step"]
        if self._size + len(data) <= self._limit:
            self._held.append(data)
            self._size += len(data)
        else:
            self._lost += 1
        if self._clock() >= self._again:
            self.flush()

    def flush(self) -> None:
        """Writes what waits, if the store takes it now."""
        try:
            if self._held:
                self._write(b"".join(self._held))
        except OSError as error:
            self._again = self._clock() + AGAIN
            if not self._why:
                self._why = str(error)
                self._report("audit_failed", step=self._since, reason=self._why)
            return
        self._held, self._size, self._again = [], 0, 0.0
        if not self._lost:
            self._since, self._why = 0, ""

    def unsaved(self) -> str:
        """Says which steps are not on record, and why; empty if all are."""
        missing = self._lost + len(self._held)
        if not missing:
            return ""
        what = f"the samples of {missing:,} steps since step {self._since:,} are not on record"
        remedy = "make room for audit/ in the run directory"
        return str(Message("SW5151", f"{what}: {self._why}; {remedy}"))

    def _write(self, data: bytes) -> None:
        if self._store.is_local:
            append(Path(self._store.path(f"{self._name}.jsonl")), data)
        else:
            self._store.write(f"{self._name}/{self._count + 1:09d}.jsonl", data)
            self._count += 1


def append(path: Path, data: bytes) -> None:
    """Appends all of ``data`` to a file, or nothing of it. Raises OSError."""
    make_private(path.parent)
    with path.open("ab", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            with suppress(OSError):
                file.truncate(before)
            raise
