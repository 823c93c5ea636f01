"""The agent's end of its nursery: where its workers come from, if they can.

The nursery (``trainer.worker.nursery``) has imported everything once, and forks workers; they are
the agent's own children. An agent starts one at its start, unless it was given one: then the
environment variable SWELL_NURSERY is the descriptor of its socket. Where there is none, or where
its modules are not the ones that a worker would import, workers are started as processes of their
own. It never comes back: whatever ended it would end the next one, too.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from trainer.agent.settings import Settings
from trainer.protocol.nursery import ENV_MODULES, ENV_NURSERY, KEEPERS_MODULES, RECORD_LIMIT, ask
from trainer.protocol.session import TorchrunSettings

ANSWER_LIMIT = 60.0  # seconds to fork in, once everything is imported; it takes a hundredth of one
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

log = logging.getLogger("swell.agent")


class Forked:
    """A child that this process did not start itself, with what is used of an asyncio Process.

    Attributes:
        pid: its process id.
        returncode: its exit code, None while it lives; a signal's number, negative.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._handle = os.pidfd_open(pid)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._handle, self._reap)

    async def wait(self) -> int:
        """Waits for its end. Returns its exit code."""
        await asyncio.shield(self._ended)
        assert self.returncode is not None
        return self.returncode

    def _reap(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._ended.set_result(None)


class Nursery:
    """Forks workers, one at a time.

    Args:
        line: the socket to a nursery that was given to this process; None to start one.
        modules: what one that is started imports; None for what most workers do.
        own: the first names of the modules that the run's own code has. Those of the nursery
            must be others: a worker that is started would find the run's.
    """

    def __init__(
        self,
        line: socket.socket | None,
        own: frozenset[str] = frozenset(),
        modules: Sequence[str] | None = None,
    ) -> None:
        self._line = line
        self._modules = modules
        self._own = own
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._ready = False
        self._closed = False
        if line is not None:
            line.setblocking(False)

    @classmethod
    def of_run(cls, settings: Settings, given: socket.socket | None) -> Nursery | None:
        """The nursery of a run's workers; None if they can have none.

        Args:
            settings: the run's. What its code requires may be other versions of what a nursery
                has imported.
            given: the socket to one that there is.
        """
        code, program = settings.code, settings.program
        if code is not None and code.installed:
            return None
        task = program.task.rpartition(":")[0]
        folders = [code.folder] if code is not None else []
        folders += [str(Path(one).parent) for one in (program.script, task) if one.endswith(".py")]
        own = frozenset(name for folder in folders for name in _modules_in(folder))
        torchrun = settings.torchrun
        if torchrun is None:
            return cls(given, own)
        # What the run's own code has, its keepers import themselves: a nursery would not find it.
        modules = for_keepers(torchrun).preload
        return cls(given, own, [name for name in modules if name.partition(".")[0] not in own])

    async def start(self, env: Mapping[str, str]) -> None:
        """Starts the process, unless one was given or none can be used. Returns before it is ready.

        Args:
            env: what all workers have in their environment.
        """
        if self._line is not None:
            return
        try:
            os.close(os.pidfd_open(os.getpid()))  # Linux 5.3, and nobody forbids it
        except OSError:
            return
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setblocking(False)
        modules = {} if self._modules is None else {ENV_MODULES: json.dumps([*self._modules])}
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "trainer.worker"),
                env={**env, **modules, ENV_NURSERY: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
            )

    async def fork(self, env: Mapping[str, str], reads: int, writes: int) -> Forked | None:
        """A new worker, or None: then it must be started.

        Args:
            env: its environment.
            reads, writes: the pipes of its channel.
        """
        async with self._turn:
            if self._line is None:
                return None
            try:
                return await self._fork(self._line, env, reads, writes)
            except (OSError, ValueError, asyncio.TimeoutError) as error:
                if not self._closed:
                    log.info("workers are started one by one from now on (%r)", error)
                self._give_up()
                return None

    async def close(self) -> None:
        """Ends the process, if this one has started it; one that was given ends by itself."""
        self._closed = True
        self._give_up()
        if self._process is not None:
            await self._process.wait()

    async def _fork(
        self, line: socket.socket, env: Mapping[str, str], reads: int, writes: int
    ) -> Forked:
        loop = asyncio.get_running_loop()
        if not self._ready:
            # However long it takes: workers that are started would import the same.
            modules = json.loads(await loop.sock_recv(line, RECORD_LIMIT))
            if shadowed := self._own.intersection(modules):
                raise ValueError(f"the run has its own {', '.join(sorted(shadowed))}")
            self._ready = True
        environment = os.memfd_create("environment")
        try:
            os.write(environment, json.dumps(dict(env)).encode())
            with _adopting():
                ask(line, environment, reads, writes)
                answer = await asyncio.wait_for(loop.sock_recv(line, RECORD_LIMIT), ANSWER_LIMIT)
        finally:
            os.close(environment)
        return Forked(int(answer))

    def _give_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)  # see trainer.agent.worker_process


def for_keepers(torchrun: TorchrunSettings) -> TorchrunSettings:
    """A job's settings with all that keepers import before a world forms."""
    return replace(torchrun, preload=[*KEEPERS_MODULES, *torchrun.preload])


def given_nursery(environ: MutableMapping[str, str]) -> socket.socket | None:
    """Takes the socket of a nursery that was given to this process out of its environment."""
    number = environ.pop(ENV_NURSERY, None)
    if number is None:
        return None
    line = socket.socket(fileno=int(number))
    line.set_inheritable(False)
    return line


def _modules_in(folder: str) -> Iterator[str]:
    with suppress(OSError):
        for entry in Path(folder or ".").iterdir():
            if entry.suffix in (".py", ".so") or entry.is_dir():
                yield entry.name.partition(".")[0]


@contextmanager
def _adopting() -> Iterator[None]:
    """Meanwhile this process becomes the parent of what its descendants leave behind."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
