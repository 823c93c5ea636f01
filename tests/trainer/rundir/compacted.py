"""A run directory whose events are compacted, and a store that something happens to."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from trainer.rundir.compaction import Compaction
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, EventWriter
from trainer.rundir.store import Store

STEPS = 3  # in one event


class Away(OSError):
    """The store failed on purpose."""


class Watched(Store):
    """A store that tells of each operation before and after it is done."""

    def __init__(self, url: str, fs: Any = None) -> None:
        super().__init__(url, fs)
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def _told(self, operation: Callable[..., Any], *args: Any) -> Any:
        self.before()
        result = operation(*args)
        self.after()
        return result

    def read(self, name: str, limit: int | None = None) -> bytes:
        data: bytes = self._told(super().read, name, limit)
        return data

    def write(self, name: str, data: bytes | memoryview) -> None:
        self._told(super().write, name, data)

    def create(self, name: str, data: bytes) -> bool:
        created: bool = self._told(super().create, name, data)
        return created

    def names(self, folder: str = "") -> list[str]:
        names: list[str] = self._told(super().names, folder)
        return names

    def files(self, folder: str = "") -> list[str]:
        files: list[str] = self._told(super().files, folder)
        return files

    def delete_file(self, name: str) -> None:
        self._told(super().delete_file, name)


def watched(run_dir: RunDirectory) -> tuple[RunDirectory, Watched]:
    """Another view of a run directory, and its store."""
    other = RunDirectory(run_dir.url, run_dir.store.fs)
    store = other.store = Watched(run_dir.url, run_dir.store.fs)
    return other, store


def at_operation(number: int, what: Callable[[], None]) -> Callable[[], None]:
    """What does something when it is called for so manieth time, from 0."""
    calls = count()

    def called() -> None:
        if next(calls) == number:
            what()

    return called


def fail() -> None:
    """The store is away."""
    raise Away("the store is away")


class Writers:
    """Writers of a run, each with a batch of one event at a time; and what they have written."""

    def __init__(self, run_dir: RunDirectory) -> None:
        self._run_dir = run_dir
        self._writers: dict[str, EventWriter] = {}
        self._ticks = count(1)
        self.written: list[Event] = []

    def write(self, writer: str = "a", batches: int = 1) -> None:
        """Writes batches: two of three are steps."""
        if writer not in self._writers:
            self._writers[writer] = EventWriter(
                self._run_dir, writer, lambda: float(next(self._ticks)), self.written.append
            )
        for _ in range(batches):
            number = len(self.written)
            if number % 3:
                metrics = {"loss": [1.0 / (number + 1)] * STEPS}
                first, generation = number * STEPS + 1, 1 + number // 40
                self._writers[writer].emit(
                    "steps",
                    generation=generation,
                    first=first,
                    count=STEPS,
                    seconds=1.5,
                    age=0.0,
                    metrics=metrics,
                )
            else:
                self._writers[writer].emit("evaluated", step=number, metrics={"n": number})
            self._writers[writer].flush()


def compaction(run_dir: RunDirectory, limit: int = 4000) -> Compaction:
    """What compacts three batches and more, into small segments."""
    return Compaction(run_dir, due=3, limit=limit)
