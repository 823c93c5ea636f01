"""Stores that are interrupted at a chosen operation, by an error or by SIGKILL."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from trainer.rundir.store import Store


class Interrupted(Store):
    """Calls ``interrupt`` before or after its ``at``-th operation (from 0)."""

    def __init__(self, url: str, at: int, after: bool, interrupt: Callable[[], None]) -> None:
        super().__init__(url)
        self.at = at
        self.after = after
        self.interrupt = interrupt
        self.count = 0

    def _operation(self, operation: Callable[[], Any]) -> Any:
        number = self.count
        self.count += 1
        if number == self.at and not self.after:
            self.interrupt()
        result = operation()
        if number == self.at and self.after:
            self.interrupt()
        return result

    def read(self, name: str, limit: int | None = None) -> bytes:
        data: bytes = self._operation(lambda: Store.read(self, name, limit))
        return data

    def write(self, name: str, data: bytes | memoryview) -> None:
        self._operation(lambda: Store.write(self, name, data))

    def create(self, name: str, data: bytes) -> bool:
        return bool(self._operation(lambda: Store.create(self, name, data)))

    def names(self, folder: str = "") -> list[str]:
        names: list[str] = self._operation(lambda: Store.names(self, folder))
        return names

    def delete(self, name: str) -> None:
        self._operation(lambda: Store.delete(self, name))


def survives(work: Callable[[], object]) -> bool:
    """Runs ``work`` in a child; returns whether it was not killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return not os.WIFSIGNALED(status)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class InThisThread(Executor):
    """A fork has no other threads."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, call: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*args, **more))
        return future
