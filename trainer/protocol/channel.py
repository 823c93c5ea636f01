"""A worker's line to its agent: two inherited pipes, and the messages of trainer.protocol.messages.

Pipes, not sockets: an abort shuts down the worker's sockets, and must not cut its own line.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import ClassVar, Protocol

from trainer.protocol import messages
from trainer.protocol.messages import FromWorker, Message, ToWorker, decode, encode
from trainer.rundir.usererror import UserError

ENV_CONTROL = "SWELL_CONTROL"  # "READ_FD,WRITE_FD"
ALIVE_EVERY = 0.25  # seconds
PROFILES = 8  # that are known at a time


class Channel(Protocol):
    """What the elastic engine needs of whoever tells it about worlds."""

    def next(self) -> ToWorker:
        """Waits for the next order. Who trains has mostly followed a Pause or Abort by then."""

    def pause_requested(self) -> bool:
        """Whether the world is asked to leave after the running step."""

    def aborted(self, generation: int) -> bool:
        """Whether ``generation`` has been broken off."""

    def profiles(self) -> Sequence[messages.Profile]:
        """Which steps of the newest world somebody wants to have profiled."""

    def on_abort(self, callback: Callable[[], None] | None) -> None:
        """Sets what to call, from another thread, when the running generation is broken off."""

    def collective(self) -> AbstractContextManager[None]:
        """To be held while the training thread waits for its peers."""

    def send(self, message: FromWorker) -> None:
        """Sends a message to the agent."""


class AgentChannel:
    """The channel of a worker that an agent started.

    In a child that the worker forks, it leads nowhere: nothing that is sent there arrives, and the
    only order is to exit.

    Args:
        read_fd: the pipe's end that the agent writes to.
        write_fd: the pipe's end that the agent reads from.
        orphaned: called when the agent is gone; it must end the process.

    Attributes:
        over: whether the worker has been told that its life is over.
    """

    _inherited: AgentChannel | None = None
    _all: ClassVar[weakref.WeakSet[AgentChannel]] = weakref.WeakSet()

    def __init__(
        self, read_fd: int, write_fd: int, orphaned: Callable[[], None] = lambda: os._exit(1)
    ) -> None:
        self.over = False
        self._reader = os.fdopen(read_fd, "rb")
        self._writer = os.fdopen(write_fd, "wb", buffering=0)
        self._orphaned = orphaned
        self._queue: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self._write_lock = threading.Lock()
        self._abort_lock = threading.Lock()
        self._pausing = 0  # generations up to this one are asked to pause
        self._aborted = 0
        self._current = 0
        self._profiles: tuple[messages.Profile, ...] = ()
        self._waits = False
        self._alone = False  # the agent is gone
        self._callback: Callable[[], None] | None = None
        self._all.add(self)
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

    def next(self) -> ToWorker:
        order = self._queue.get()
        if isinstance(order, messages.Form):
            self._current = order.generation
        self.over = isinstance(order, messages.Exit)
        return order

    def pause_requested(self) -> bool:
        return self._pausing >= self._current

    def aborted(self, generation: int) -> bool:
        return self._aborted >= generation

    def profiles(self) -> Sequence[messages.Profile]:
        return self._profiles

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
        """From now on lets the agent know every so many seconds that this process lives."""

        def tell() -> None:
            while not self._alone:
                self.send(messages.Alive(self._waits))
                time.sleep(every)

        threading.Thread(target=tell, name="swell-alive", daemon=True).start()

    def send(self, message: FromWorker) -> None:
        line = encode(message)
        with self._write_lock:
            try:
                while line:
                    line = line[self._writer.write(line) :]
            except BrokenPipeError:
                self._alone = True
                self._orphaned()

    @classmethod
    def forked(cls) -> None:
        """To be called in a child that this process has forked, which is no worker.

        It must not speak for the worker, nor hold its pipes when that is dead.
        """
        for channel in list(cls._all):
            channel._cut()

    def _cut(self) -> None:
        # Not closed: who uses the numbers, or closes them once more, must not meet others' files.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for end in (self._reader, self._writer):
            os.dup2(nowhere, end.fileno(), inheritable=False)
        os.close(nowhere)
        self._write_lock = threading.Lock()  # another thread may have held it
        self._queue = queue.SimpleQueue()
        self._queue.put(messages.Exit())

    def _listen(self) -> None:
        with suppress(ValueError):  # as bad as no agent at all
            for line in self._reader:
                self._take(decode(line))
        self._orphaned()

    def _take(self, order: Message | None) -> None:
        match order:
            case messages.Pause(generation):
                self._pausing = max(self._pausing, generation)
                self._queue.put(order)
            case messages.Abort(generation):
                with self._abort_lock:
                    self._aborted = max(self._aborted, generation)
                    if self._callback is not None and self._aborted >= self._current:
                        self._callback()
                self._queue.put(order)
            case messages.Profile():
                of_its_world = (it for it in self._profiles if it.generation == order.generation)
                self._profiles = (*of_its_world, order)[-PROFILES:]
            case messages.Form() | messages.Save() | messages.Exit():
                self._queue.put(order)


os.register_at_fork(after_in_child=AgentChannel.forked)


class LoneChannel:
    """The channel of a process without an agent: one world of one worker.

    Args:
        report: called with every message that an agent would get.
    """

    def __init__(self, report: Callable[[FromWorker], None] = lambda message: None) -> None:
        self._report = report
        self._orders: list[ToWorker] = [messages.Form(1, {}, ())]

    def next(self) -> ToWorker:
        return self._orders.pop() if self._orders else messages.Exit()

    def pause_requested(self) -> bool:
        return False

    def aborted(self, generation: int) -> bool:
        return False

    def profiles(self) -> Sequence[messages.Profile]:
        return ()

    def on_abort(self, callback: Callable[[], None] | None) -> None:
        return None

    def collective(self) -> AbstractContextManager[None]:
        return nullcontext()

    def send(self, message: FromWorker) -> None:
        self._report(message)


def current_channel() -> Channel:
    """The channel of this process: its agent's, if it has one, and else a new one, alone.

    Raises UserError for one of several processes that torchrun has started: each would be alone.
    """
    if (channel := AgentChannel.inherited()) is not None:
        return channel
    size = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and size != "1":
        raise UserError(
            "SW5024",
            f"torchrun has started {size} processes, and a loop of Swell's in each, which would "
            "train by itself; write script: (or task:) in the job file in place of torchrun:, or "
            "start it as one process",
        )
    return LoneChannel()
