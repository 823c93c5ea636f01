"""Several who use one store at a time: a test says who does the next operation, and how it ends.

What a store promises is what Cloud Storage does: each operation is done at one moment, and what is
read by its name is what there is. A list may be as old as it likes, but not older than the one
before it, nor than what whoever asks has done. A list of all files may take a while, as on a disk:
then some of it is of one moment, and the rest of a later one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar
from zlib import crc32

from trainer.rundir.directory import RunDirectory
from trainer.rundir.retry import ONCE, StoreUnavailable
from trainer.rundir.store import Store

Fate = Literal["", "before", "after"]  # the next operation fails, or its answer is lost
A = TypeVar("A")
T = TypeVar("T")


class Killed(BaseException):
    """Its process is gone."""


class Actor:
    """Somebody who stops before each operation on the store.

    Args:
        work: what it does.

    Attributes:
        over: whether it is done.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self.over = False
        self._work = work
        self._killed = False
        self._wrong: Exception | None = None
        self._turn, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def go_on(self, operations: int = 1) -> None:
        """Lets it do so many operations. Raises what it has raised."""
        for _ in range(operations):
            if not self.over:
                self._turn.release()
                self._done.acquire()
        if self._wrong is not None:
            raise self._wrong

    def finish(self, most: int = 1000) -> None:
        """Lets it do all that is left."""
        self.go_on(most)
        assert self.over, "it has no end"

    def kill(self) -> None:
        """It does nothing more."""
        self._killed = True
        self.go_on()
        self._thread.join()

    def wait(self) -> None:
        """Waits for its turn. It alone calls this."""
        if not self._killed:
            self._done.release()
            self._turn.acquire()
        if self._killed:
            raise Killed

    def _run(self) -> None:
        self._turn.acquire()
        try:
            if not self._killed:
                self._work()
        except Killed:
            pass
        except Exception as error:
            self._wrong = error
        finally:
            self.over = True
            self._done.release()


class Ground:
    """The files that all see.

    Attributes:
        files: by name.
        names: which there were after each change.
        written: after which change each file was there first, and what it held.
        kept: whether a file may not be deleted.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.names: list[frozenset[str]] = [frozenset()]
        self.written: dict[str, tuple[int, bytes]] = {}
        self.kept: Callable[[str], bool] = lambda name: False

    @property
    def now(self) -> int:
        """How often it has changed."""
        return len(self.names) - 1

    def put(self, name: str, data: bytes) -> None:
        """Writes a file."""
        self.files[name] = data
        self.names.append(self.names[-1] | {name})
        self.written.setdefault(name, (self.now, data))

    def remove(self, name: str) -> None:
        """Deletes a file."""
        self.files.pop(name, None)
        self.names.append(self.names[-1] - {name})


class View(Store):
    """The store as one of them has it.

    Args:
        ground: what all share.
        lag: by how many changes a list is late, at most.
        parts: which part of a list of files is earlier than the rest; None if all is of one moment.

    Attributes:
        lag, parts: see there.
        actor: who waits for its turn; None when it is always that.
        fate: of the next operation.
        since: how often the ground had changed when the last list of files was begun.
    """

    def __init__(self, ground: Ground, lag: int = 0, parts: int | None = None) -> None:
        super().__init__("memory://ground", retry=ONCE)
        self.lag = lag
        self.parts = parts
        self.actor: Actor | None = None
        self.fate: Fate = ""
        self.since = 0
        self._ground = ground
        self._seen = 0

    def read(self, name: str, limit: int | None = None) -> bytes:
        def found() -> bytes:
            if name not in self._ground.files:
                raise FileNotFoundError(name)
            return self._ground.files[name]

        return self._operation(found)

    def write(self, name: str, data: bytes | memoryview) -> None:
        self._operation(lambda: self._ground.put(name, bytes(data)), changes=True)

    def create(self, name: str, data: bytes) -> bool:
        def created() -> bool:
            if name in self._ground.files:
                return False
            self._ground.put(name, data)
            return True

        return self._operation(created, changes=True)

    def delete_file(self, name: str) -> None:
        def delete() -> None:
            if self._ground.kept(name):
                raise PermissionError(name)
            self._ground.remove(name)

        self._operation(delete, changes=True)

    def files(self, folder: str = "") -> list[str]:
        inside, parts = f"{folder}/", self.parts
        found = self._operation(lambda: self._list(inside))
        self.since = self._seen
        if parts is not None:
            later = self._operation(lambda: self._list(inside))
            found = [name for name in found if _part(name, parts)]
            found += [name for name in later if not _part(name, parts)]
        return sorted(name[len(inside) :] for name in found)

    def names(self, folder: str = "") -> list[str]:
        inside = f"{folder}/"
        found = self._operation(lambda: self._list(inside))
        return sorted({name[len(inside) :].partition("/")[0] for name in found})

    def size(self, name: str) -> int:
        return len(self.read(name))

    def exists(self, name: str) -> bool:
        return name in self._ground.files

    def each(self, work: Callable[[A], T], of: Iterable[A]) -> list[T]:
        return [work(one) for one in of]

    def _list(self, inside: str) -> list[str]:
        self._seen = max(self._seen, self._ground.now - self.lag)
        return [name for name in self._ground.names[self._seen] if name.startswith(inside)]

    def _operation(self, do: Callable[[], T], changes: bool = False) -> T:
        if self.actor is not None:
            self.actor.wait()
        fate, self.fate = self.fate, ""
        if fate == "before":
            raise StoreUnavailable("the store is away")
        result = do()
        if changes:
            self._seen = self._ground.now
        if fate == "after":
            raise StoreUnavailable("the answer was lost")
        return result


def _part(name: str, parts: int) -> bool:
    return bool(crc32(f"{parts} {name}".encode()) & 1)


def seen_by(view: View) -> RunDirectory:
    """The run directory of such a view."""
    run_dir = RunDirectory("memory://ground")
    run_dir.store = view
    return run_dir
