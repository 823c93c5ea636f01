"""A worker's line to its agent: JSON lines over two inherited pipes.

Agent to worker: ``form`` (join this generation), ``pause`` (leave it after the running
step), ``abort`` (leave it now), ``save`` (write a checkpoint of what you hold), ``exit``.
Worker to agent: ``alive`` (several times a second, whatever the training thread does),
``ready``, ``started``, ``received`` (bytes of state), ``progress``, ``steps`` (their
metrics), ``stopped``, ``saved``, ``done``, ``failed``, ``event``.

Pipes, not sockets: an abort shuts down the worker's sockets, and must not cut its own line.
"""

from __future__ import annotations

import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainer.rundir.untrusted import parse_json

ENV_CONTROL = "SWELL_CONTROL"  # "READ_FD,WRITE_FD"
ALIVE_EVERY = 0.25  # seconds


@dataclass(frozen=True)
class Generation:
    """What a worker is told of a world that it is to join.

    Attributes:
        number: the generation.
        env: the HOROVOD_* variables for ``hvd.init()``.
        addresses: where the other members live; their connections are broken by an abort.
        term: that of the leader who formed it.
    """

    number: int
    env: dict[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    term: int = 0


@dataclass(frozen=True)
class Save:
    """The agent asks for a share of a checkpoint of the state that the worker holds.

    Attributes:
        rank, size: this worker's place among those who write.
        until: when this VM is taken away, in seconds of the monotonic clock.
    """

    rank: int = 0
    size: int = 1
    until: float = math.inf


@dataclass(frozen=True)
class Leave:
    """A generation is to be left. One that trains in it has been told in another way."""

    generation: int


Order = Generation | Save | Leave | None  # None: the worker's life is over


class Channel(Protocol):
    """What the elastic engine needs of whoever tells it about worlds."""

    def next(self) -> Order:
        """Waits for what to do next."""

    def pause_requested(self) -> bool:
        """Whether the world is asked to leave after the running step."""

    def aborted(self, generation: int) -> bool:
        """Whether ``generation`` has been broken off."""

    def on_abort(self, callback: Callable[[], None] | None) -> None:
        """Sets what to call, from another thread, when the running generation is broken off."""

    def collective(self) -> AbstractContextManager[None]:
        """To be held while the training thread waits for its peers."""

    def send(self, op: str, **fields: Any) -> None:
        """Tells the agent something."""


class AgentChannel:
    """The channel of a worker that an agent started.

    Args:
        read_fd: the pipe's end that the agent writes to.
        write_fd: the pipe's end that the agent reads from.
        orphaned: called when the agent is gone; it must end the process.

    Attributes:
        over: whether the worker has been told that its life is over.
    """

    _inherited: AgentChannel | None = None

    def __init__(
        self, read_fd: int, write_fd: int, orphaned: Callable[[], None] = lambda: os._exit(1)
    ) -> None:
        self.over = False
        self._reader = os.fdopen(read_fd, "rb")
        self._writer = os.fdopen(write_fd, "wb", buffering=0)
        self._orphaned = orphaned
        self._queue: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._write_lock = threading.Lock()
        self._abort_lock = threading.Lock()
        self._pausing = 0  # generations up to this one are asked to pause
        self._aborted = 0
        self._current = 0
        self._waits = False
        self._alone = False  # the agent is gone
        self._callback: Callable[[], None] | None = None
        threading.Thread(target=self._listen, name="swell-channel", daemon=True).start()

    @classmethod
    def inherited(cls) -> AgentChannel | None:
        """The channel that an agent left in the environment, or None without an agent.

        Always the same one: a worker's main function and the user's script share it.
        """
        fds = os.environ.pop(ENV_CONTROL, None)
        if fds is not None:
            read_fd, write_fd = (int(fd) for fd in fds.split(","))
            os.set_inheritable(read_fd, False)
            os.set_inheritable(write_fd, False)
            cls._inherited = cls(read_fd, write_fd)
        return cls._inherited

    def next(self) -> Order:
        order = self._queue.get()
        if isinstance(order, Generation):
            self._current = order.number
        self.over = order is None
        return order

    def pause_requested(self) -> bool:
        return self._pausing >= self._current

    def aborted(self, generation: int) -> bool:
        return self._aborted >= generation

    def on_abort(self, callback: Callable[[], None] | None) -> None:
        with self._abort_lock:
            self._callback = callback

    @contextmanager
    def collective(self) -> Iterator[None]:
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def beat(self, every: float = ALIVE_EVERY) -> None:
        """From now on tells the agent every so many seconds that this process lives."""

        def tell() -> None:
            while not self._alone:
                self.send("alive", waiting=self._waits)
                time.sleep(every)

        threading.Thread(target=tell, name="swell-alive", daemon=True).start()

    def send(self, op: str, **fields: Any) -> None:
        line = json.dumps({"op": op, **fields}).encode() + b"\n"
        with self._write_lock:
            try:
                while line:
                    line = line[self._writer.write(line) :]
            except BrokenPipeError:
                self._alone = True
                self._orphaned()

    def _listen(self) -> None:
        with suppress(ValueError, KeyError, TypeError):  # as bad as no agent at all
            for line in self._reader:
                self._take(parse_json(line))
        self._orphaned()

    def _take(self, order: Any) -> None:
        op = order["op"]
        if op == "form":
            addresses = tuple(order["addresses"])
            self._queue.put(
                Generation(order["generation"], order["env"], addresses, order.get("term", 0))
            )
        elif op == "pause":
            self._pausing = max(self._pausing, order["generation"])
            self._queue.put(Leave(order["generation"]))
        elif op == "abort":
            with self._abort_lock:
                self._aborted = max(self._aborted, order["generation"])
                if self._callback is not None and self._aborted >= self._current:
                    self._callback()
            self._queue.put(Leave(order["generation"]))
        elif op == "save":
            left = order.get("deadline")
            until = math.inf if left is None else time.monotonic() + left
            self._queue.put(Save(order.get("rank", 0), order.get("size", 1), until))
        elif op == "exit":
            self._queue.put(None)


class LoneChannel:
    """The channel of a process without an agent: one world of one worker."""

    def __init__(self, report: Callable[[str, dict[str, Any]], None] | None = None) -> None:
        self._report = report
        self._orders: list[Generation] = [Generation(1)]

    def next(self) -> Order:
        return self._orders.pop() if self._orders else None

    def pause_requested(self) -> bool:
        return False

    def aborted(self, generation: int) -> bool:
        return False

    def on_abort(self, callback: Callable[[], None] | None) -> None:
        return None

    def collective(self) -> AbstractContextManager[None]:
        return nullcontext()

    def send(self, op: str, **fields: Any) -> None:
        if self._report is not None:
            self._report(op, fields)


def current_channel() -> Channel:
    """The channel of this process: its agent's, if it has one, and else a new one, alone."""
    return AgentChannel.inherited() or LoneChannel()
