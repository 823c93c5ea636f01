"""TensorBoard's event files of a run, in ``logs/``, where Vertex AI's TensorBoard reads.

The leader writes them, and each leader its own: a file is named after its term, so that no two
write one, and TensorBoard, which reads files in the order of their names, reads the newest leader's
last. What happened is in a folder of its own, ``logs/events``: the curves may go back to an earlier
step, and TensorBoard then forgets all that is after it in the same folder.

On a disk a file grows, as TensorBoard's readers expect, which keep it open. An object cannot be
appended to: it is written anew, whole, as often as there is news, until it holds PART bytes; then
the next begins. Many small objects instead would cost a reader as many requests, again and again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trainer.rundir.private import append_private, make_private
from trainer.rundir.store import Store
from trainer.telemetry import eventfile
from trainer.telemetry.curves import Point

LOGS = "logs"
EVENTS = f"{LOGS}/events"
PART = 2**20  # bytes after which an object is left as it is


class Board:
    """Writes event files.

    Args:
        store: the run directory's.
        term: of the leader that writes.
        step: that earlier leaders have told; what they told beyond it does not count.
    """

    def __init__(self, store: Store, term: int, step: int = 0) -> None:
        self._numbers = _Files(store, LOGS, term, step + 1 if step else 0)
        self._texts = _Files(store, EVENTS, term)

    def __str__(self) -> str:
        return "TensorBoard"

    def tell(self, points: Sequence[Point]) -> None:
        """Writes what points say. Raises OSError; what was not written then is, the next time."""
        for files, data in (
            (self._numbers, eventfile.numbers(points)),
            (self._texts, eventfile.texts(points)),
        ):
            files.add(data, points[0].time if points else 0.0)
        self._numbers.write()
        self._texts.write()

    def close(self) -> None:
        """Nothing is left open."""


class _Files:
    """The files of one folder."""

    def __init__(self, store: Store, folder: str, term: int, again: int | None = None) -> None:
        self._store = store
        self._folder = folder
        self._term = term
        self._again = again
        self._size = 0  # bytes of the newest part, those that are not written yet included
        self._parts: list[bytes] = []  # what is new in each of the newest parts
        self._part = 0  # the number of the first of these
        self._written = b""  # of that, where an object is written anew

    def add(self, data: bytes, time: float) -> None:
        """These records come next; the first of them are of ``time``. Nothing is written yet."""
        if not data:
            return
        if not self._size or (self._size >= PART and not self._store.is_local):
            first = not self._size
            data = eventfile.beginning(time, self._again if first else None) + data
            self._part += first
            self._parts.append(data)
            self._size = len(data)
        else:
            self._parts[-1] += data
            self._size += len(data)

    def write(self) -> None:
        """Writes what is new, in order. Raises OSError; what was written by then is not again."""
        while self._parts and (self._parts[0] or self._parts[1:]):
            self._write(self._parts[0])
            self._parts[0] = b""
            if self._parts[1:]:
                del self._parts[0]
                self._part += 1
                self._written = b""

    def _write(self, new: bytes) -> None:
        if not new:
            return
        name = f"{self._folder}/events.out.tfevents.{self._term:06d}{self._part:06d}.swell"
        if self._store.is_local:
            _append(Path(self._store.path(name)), new)
        else:
            self._store.write(name, self._written + new)
            self._written += new


def _append(path: Path, data: bytes) -> None:
    """Adds to a file all of it, or nothing: half a record would end it for its readers."""
    make_private(path.parent)
    with append_private(path) as file:
        before = os.fstat(file.fileno()).st_size
        try:
            if file.write(data) != len(data):
                raise OSError(f"{path}: there is no room for {len(data)} bytes")
        except OSError:
            with suppress(OSError):
                os.ftruncate(file.fileno(), before)
            raise
