"""A VM: a session of processes that has an address, an environment and metadata of its own.

Everything in the VM's session dies with it, stopped or not, and the VM's command dies
with the emulator even if that is killed. What ``process`` VMs cannot have without cgroups:
a program that makes a session of its own (``setsid``) outlives its VM until the emulator
ends; that of a ``netns`` VM does not. When the emulator is killed with SIGKILL, what a
command has started in turn lives on unless the command sees to that (Swell's agent does),
in a ``netns`` or ``container`` VM until the next emulator makes one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

from launcher.emulator.listener import Listener
from launcher.emulator.logs import ReplicaLog, StreamLog
from launcher.emulator.vms import boot
from launcher.emulator.vms.metadata import Metadata
from launcher.emulator.vms.places import Place
from launcher.emulator.vms.program import Program

CHUNK = 64 * 1024
DRAIN_SECONDS = 1.0  # for output that is still in a pipe when all its writers should be gone
RECHECK_SECONDS = 0.01

ExitCallback = Callable[[int, int], None]


class VM:
    """The VM of one replica, through all its incarnations.

    Args:
        program: what it runs.
        metadata: what its metadata server says.
        listener: its metadata server, not yet started.
        place: where it runs.
        log: where its output goes.
        on_exit: called with the incarnation and the exit code when the command has ended by
            whatever cause, and nothing of it is left. A negative code is a signal's number.
    """

    def __init__(
        self,
        program: Program,
        metadata: Metadata,
        listener: Listener,
        place: Place,
        log: ReplicaLog,
        on_exit: ExitCallback,
    ) -> None:
        self._program = program
        self._metadata = metadata
        self._listener = listener
        self._place = place
        self._log = log
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._frozen = False
        self._life: asyncio.Task[None] | None = None
        self._doom: asyncio.TimerHandle | None = None
        self._changing = asyncio.Lock()
        listener.start()

    @property
    def pid(self) -> int | None:
        """The process id of the VM's command while it runs."""
        process = self._process
        return process.pid if process and process.returncode is None else None

    @property
    def address(self) -> str:
        """The VM's address."""
        return self._place.address

    async def start(self, incarnation: int) -> None:
        """Starts the command, after killing what is left of an earlier incarnation.

        Raises OSError when no process can be started.
        """
        async with self._changing:
            await self._kill()
            await asyncio.to_thread(self._place.renew)
            self._frozen = False
            self._metadata.reset()
            command, environment = self._place.command(self._program)
            async with (
                _output(self._log.stream("INFO")) as (stdout, read_stdout),
                _output(self._log.stream("ERROR")) as (stderr, read_stderr),
            ):
                # A VM dies with the *thread* that started it: this must be the main one.
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", boot.__file__, str(os.getpid())),
                    *command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            self._life = asyncio.create_task(
                self._live(self._process, incarnation, [read_stdout, read_stderr])
            )

    def notify(self) -> None:
        """Tells the VM that it will be preempted: in its metadata, and by SIGTERM."""
        self._metadata.preempt()
        self._terminate()

    def freeze(self) -> None:
        """Makes the VM vanish without a trace to its peers."""
        self._metadata.silence()
        self._frozen = True
        self._place.vanish(self.pid)
        if (seconds := self._place.lives_on) is not None:
            self._doom = asyncio.get_running_loop().call_later(seconds, self._strike)

    async def kill(self) -> None:
        """Kills everything in the VM. Returns when it is gone and ``on_exit`` was called."""
        async with self._changing:
            await self._kill()

    async def shut_down(self, grace: float, hurry: asyncio.Event) -> None:
        """Shuts the VM down: SIGTERM, then SIGKILL after ``grace`` seconds.

        Without SIGTERM when the VM cannot hear it, and without waiting once ``hurry`` is set.
        """
        async with self._changing:
            if self._life and not self._frozen and not hurry.is_set() and self._terminate():
                hurried = asyncio.create_task(hurry.wait())
                await asyncio.wait(
                    [self._life, hurried], timeout=grace, return_when=asyncio.FIRST_COMPLETED
                )
                hurried.cancel()
            await self._kill()

    async def stop(self, grace: float, hurry: asyncio.Event) -> None:
        """Shuts the VM down for good, with its metadata server and its log."""
        await self.shut_down(grace, hurry)
        self._metadata.close()
        await self._listener.stop()
        self._log.close()

    def _terminate(self) -> bool:
        if not self.pid:
            return False
        # Not Process.terminate: that may reap the process, and its exit code would be lost.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        return True

    def _strike(self) -> None:
        if self._process and self.pid:
            self._place.signal(self._process.pid, signal.SIGKILL)

    async def _kill(self) -> None:
        if self._doom:
            self._doom.cancel()
        self._strike()
        if self._life:
            await self._life

    async def _live(
        self,
        process: asyncio.subprocess.Process,
        incarnation: int,
        readers: list[asyncio.Task[None]],
    ) -> None:
        code = await process.wait()
        # The command was the VM: what it leaves behind goes with it.
        while self._place.signal(process.pid, signal.SIGKILL):
            await asyncio.sleep(RECHECK_SECONDS)
        _, unfinished = await asyncio.wait(readers, timeout=DRAIN_SECONDS)
        for reader in unfinished:  # a process that has left the VM holds the pipe
            reader.cancel()
        self._on_exit(incarnation, code)


@contextlib.asynccontextmanager
async def _output(log: StreamLog) -> AsyncIterator[tuple[int, asyncio.Task[None]]]:
    """The writing end of a pipe for a child, and the task that copies what comes out of it."""
    read_end, write_end = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
    )

    async def copy() -> None:
        try:
            while data := await reader.read(CHUNK):
                log.feed(data)
            log.end()
        finally:
            transport.close()

    task = asyncio.create_task(copy())
    try:
        yield write_end, task
    except BaseException:
        task.cancel()
        raise
    finally:
        os.close(write_end)
