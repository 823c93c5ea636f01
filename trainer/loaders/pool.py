"""Loader processes: a window of what is wanted soon, and what of it is made already.

The process that trains says what it wants, in the order in which it will be needed; loaders make
it, each one item after another. What is wanted may change at any time, as when a world is formed
anew: what was made, or is being made, is used where it is still wanted.

A loader that is killed loses nothing: what it held is made by others, and another is forked in its
place. What kills three of them is an error.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from trainer.loaders.nursery import ENDED, ENVIRONMENT, FORK, INSIDE, NUMBER, surroundings
from trainer.loaders.parcel import Parcel, receive, send
from trainer.loaders.sample import Trouble, listed
from trainer.rundir.usererror import UserError

ROOT = Path(__file__).parents[2]
HELD = 2  # items that a loader has at once: one that it makes, and the next
PATIENCE = 3  # loaders that one item, and nurseries that a pool, may cost
LOOK_EVERY = 0.1  # seconds
GRACE = 1.0  # seconds to notice that nobody asks any more

log = logging.getLogger("swell.loaders")
_Key = TypeVar("_Key", bound=Hashable)


class NoLoaders(UserError, RuntimeError):
    """There can be no loader processes here; says what to do."""


class LoadersLost(RuntimeError):
    """Loader processes have died again and again, perhaps for want of memory."""


@dataclass(frozen=True)
class Wanted(Generic[_Key]):
    """Something that loaders are to make.

    Attributes:
        key: tells it from all else.
        request: what a loader is given.
        indices: the samples of it, for messages.
    """

    key: _Key
    request: Any
    indices: Sequence[int]


@dataclass
class _Loader(Generic[_Key]):
    """A loader, as this process knows it; ``number`` is that of its nursery."""

    number: int
    line: socket.socket
    held: deque[Wanted[_Key]] = field(default_factory=deque)


class Loaders(Generic[_Key]):
    """Some loader processes; they begin with the first ``start`` or ``want``.

    For one thread.

    Args:
        make: called in a loader with each request; it and what it returns must be picklable.
        count: how many processes.
        module: that defines what is pickled, as it may be found in no other way.

    Raises NoLoaders when ``make`` cannot be pickled, and in a process of loaders.
    """

    def __init__(self, make: Callable[[Any], Any], count: int, module: str = "__main__") -> None:
        if INSIDE in os.environ:
            raise NoLoaders(
                "SW5173",
                "the program trains when it is imported, and loader processes import it to find "
                'what batches are made of; put what trains under `if __name__ == "__main__":`',
            )
        self._count = count
        self._module = module
        try:
            self._make = Parcel(make)
        except Exception as error:  # whatever a class of the program's own does there
            raise NoLoaders(
                "SW5170",
                f"the data set cannot be given to loader processes ({type(error).__name__}: "
                f"{error}); define its class and its functions in a module, and open files and "
                "connections where a sample is read, or make batches without loaders: workers=0",
            ) from error
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._loaders: dict[int, _Loader[_Key]] = {}  # by the descriptor of their line
        self._forked = 0  # of this nursery
        self._begun = 0  # nurseries
        self._ready = False
        self._pending: deque[Wanted[_Key]] = deque()
        self._made: dict[_Key, Any] = {}
        self._unwanted: set[_Key] = set()  # and being made
        self._killed: Counter[_Key] = Counter()

    @property
    def started(self) -> bool:
        """Whether there are processes, ready or not."""
        return self._process is not None

    @property
    def warming(self) -> bool:
        """Whether they have been started, and have not been ready yet."""
        return self._process is not None and self._begun == 1 and not self._ready

    @property
    def pids(self) -> list[int]:
        """The processes that make batches now, as the kernel has them."""
        if self._process is None:
            return []
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with suppress(OSError):
            return [int(one) for one in path.read_text().split()]
        return []

    def start(self) -> None:
        """Starts the processes, unless they are there. They take a second or more to be ready."""
        if self._process is not None:
            return
        self._begun += 1
        if self._begun > PATIENCE:
            raise LoadersLost(
                f"loader processes, and what forks them, have died {PATIENCE} times; perhaps "
                "memory is short: fewer workers need less"
            )
        self._line, theirs = _pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer.loaders.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=ROOT,  # not where a module of the user may have the name of one of ours
                env={**os.environ, **ENVIRONMENT},
            )
        send(self._line, surroundings(self._module))
        self._make.send(self._line)
        self._forked, self._ready = 0, False
        for _ in range(self._count):
            self._fork()

    def wait(self) -> None:
        """Waits until those that were started are ready.

        Raises NoLoaders when they cannot be, and LoadersLost.
        """
        while self._process is not None and not self._ready:
            self._take(LOOK_EVERY)

    def want(self, wanted: Iterable[Wanted[_Key]]) -> None:
        """From now on this is wanted, the first of it first, and nothing else."""
        window = {one.key: one for one in wanted}
        self._made = {key: value for key, value in self._made.items() if key in window}
        held = {one.key for loader in self._loaders.values() for one in loader.held}
        self._unwanted = held - window.keys()
        there = held | self._made.keys()
        self._pending = deque(one for key, one in window.items() if key not in there)
        self.start()
        self.look()

    def get(self, one: Wanted[_Key], check: Callable[[], None] = lambda: None) -> Any:
        """Returns what was made of something that is wanted, and waits for it.

        ``check`` is called every now and then meanwhile. Raises SampleError when a loader has
        raised, and LoadersLost.
        """
        while one.key not in self._made:
            self._take(LOOK_EVERY)
            self._hand_out()
            check()
        found = self._made.pop(one.key)
        if isinstance(found, Trouble):
            raise found.raised(one.indices)
        return found

    def look(self) -> None:
        """Takes what has been made since, and gives out what is to be made; does not wait."""
        self._take(0.0)
        self._hand_out()

    def take(self, key: _Key) -> Any:
        """What was made of something, without waiting for it; None if nothing is, or it failed."""
        found = self._made.get(key)
        return None if isinstance(found, Trouble) else self._made.pop(key, None)

    def close(self) -> None:
        """Ends the processes."""
        self._end()
        self._make.close()

    # --- processes ----------------------------------------------------------------------

    def _fork(self) -> None:
        """Has another loader forked. It is given work at once."""
        assert self._line is not None
        ours, theirs = _pair()
        with theirs:
            try:
                socket.send_fds(self._line, [FORK], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        self._loaders[ours.fileno()] = _Loader(self._forked, ours)
        self._forked += 1

    def _end(self) -> int | None:
        """Ends the nursery and its loaders. Returns its exit code, None if there was none."""
        for loader in self._loaders.values():
            loader.line.close()
        self._loaders.clear()
        if self._line is not None:
            self._line.close()
            self._line = None
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            return process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _lost(self, loader: _Loader[_Key]) -> None:
        """A loader is gone: others make what it held. Raises LoadersLost for the third time."""
        del self._loaders[loader.line.fileno()]
        loader.line.close()
        held = [one for one in loader.held if one.key not in self._unwanted]
        self._pending.extendleft(reversed(held))
        how = self._how_ended(loader.number)
        if loader.held:
            guilty = loader.held[0]
            self._killed[guilty.key] += 1
            if self._killed[guilty.key] >= PATIENCE:
                raise LoadersLost(
                    f"{PATIENCE} loader processes were lost (the last one {how}) while they made "
                    f"{listed(guilty.indices)}; perhaps memory is short: fewer workers need less, "
                    "and the kernel's log tells who was killed for it"
                )
        log.warning("a loader process %s, and another takes its place", how)
        try:
            self._fork()
        except OSError:
            self._begin_again()

    def _how_ended(self, number: int) -> str:
        """How a loader has ended, in words."""
        assert self._line is not None
        try:
            self._line.send(ENDED + NUMBER.pack(number))
            self._line.settimeout(GRACE)
            (status,) = NUMBER.unpack(self._line.recv(64))
        except (OSError, struct.error):  # the nursery is gone, too
            return "has ended"
        finally:
            self._line.settimeout(None)
        if os.WIFSIGNALED(status):
            return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"has exited with {os.waitstatus_to_exitcode(status)}"

    def _begin_again(self) -> None:
        """The nursery is gone, and its loaders with it: there are others."""
        for loader in self._loaders.values():
            self._pending.extendleft(
                one for one in reversed(loader.held) if one.key not in self._unwanted
            )
        self._unwanted.clear()
        code = self._end()
        log.warning("the process that forks loaders has ended with exit code %s", code)
        self.start()

    # --- work ---------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Gives each loader what it can begin with, those first that have least."""
        for room in range(HELD):
            for loader in [*self._loaders.values()]:
                if self._pending and len(loader.held) <= room:
                    one = self._pending.popleft()
                    loader.held.append(one)
                    with suppress(ConnectionError):  # it is gone, which is noticed elsewhere
                        send(loader.line, one.request)

    def _take(self, timeout: float) -> None:
        """Takes what has been made; waits up to ``timeout`` seconds for something."""
        assert self._line is not None
        poller = select.poll()
        for fd in (self._line.fileno(), *self._loaders):
            poller.register(fd, select.POLLIN)
        for fd, _ in poller.poll(1000 * timeout):
            if self._line is not None and fd == self._line.fileno():
                self._hear()
                return
            loader = self._loaders.get(fd)
            if loader is None:
                continue
            try:
                value = receive(loader.line)
            except EOFError:
                self._lost(loader)
                return  # descriptors mean something else now
            one = loader.held.popleft()
            if one.key not in self._unwanted:
                self._made[one.key] = value
            self._unwanted.discard(one.key)

    def _hear(self) -> None:
        """The nursery says something: that it is ready, or cannot be; or it is gone."""
        assert self._line is not None
        try:
            trouble = receive(self._line)
        except EOFError:
            self._begin_again()
            return
        if trouble is None:
            self._ready = True
            return
        self._end()
        raise NoLoaders(
            "SW5170",
            f"the data set cannot be taken over by loader processes: {trouble.text}; what it needs "
            "must be importable there, or make batches without loaders: workers=0\n"
            f"{trouble.trace}",
        )


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
