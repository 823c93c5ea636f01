"""A VM: a session of processes that has an address, an environment and metadata of its own.

Everything in the VM dies with its command, stopped or not, and outlives the emulator: a keeper
sees to both (launcher.emulator.vms.keeper). The next emulator adopts what an earlier one has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.emulator.listener import Listener
from launcher.emulator.vms.life import Life, Output
from launcher.emulator.vms.metadata import Metadata
from launcher.emulator.vms.places import Place
from launcher.emulator.vms.program import Program

RECHECK_SECONDS = 0.01

ExitCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class Keeping:
    """What the keeper of a VM's command is given.

    Args:
        records: the folder of the VM's records; see launcher.emulator.vms.life.
        output: where what it prints goes.
        held: returns open files that belong to the VM, the emulator's ports for instance: while
            it lives they are nobody else's.
    """

    records: Path
    output: Output
    held: Callable[[], Sequence[int]] = tuple


class VM:
    """The VM of one replica, through all its incarnations.

    Args:
        program: what it runs.
        metadata: what its metadata server says.
        listener: its metadata server, not yet started.
        place: where it runs.
        keeping: how its command is kept.
        on_exit: called with the incarnation and the exit code when the command has ended by
            whatever cause, and nothing of it is left. A negative code is a signal's number.
    """

    def __init__(
        self,
        program: Program,
        metadata: Metadata,
        listener: Listener,
        place: Place,
        keeping: Keeping,
        on_exit: ExitCallback,
    ) -> None:
        self._program = program
        self._metadata = metadata
        self._listener = listener
        self._place = place
        self._keeping = keeping
        self._on_exit = on_exit
        self._life: Life | None = None
        self._frozen = False
        self._living: asyncio.Task[None] | None = None
        self._doom: asyncio.TimerHandle | None = None
        self._changing = asyncio.Lock()
        listener.start()

    @property
    def pid(self) -> int | None:
        """The process id of the VM's command while it runs."""
        return self._life.command if self._life and self._life.living else None

    @property
    def address(self) -> str:
        """The VM's address."""
        return self._place.address

    @property
    def metadata_port(self) -> int:
        """The port of its metadata server."""
        return self._listener.port

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
            life = await Life.begin(
                self._keeping.records,
                incarnation,
                command,
                environment,
                self._keeping.output,
                [*self._place.held(), *self._keeping.held(), self._listener.reserved],
                self._place.keeps_orphans,
            )
            self.adopt(life)

    def adopt(self, life: Life) -> None:
        """Sees a command through that was started, by an earlier emulator perhaps."""
        self._life = life
        self._living = asyncio.create_task(self._live(life))

    def notify(self) -> None:
        """Tells the VM that it will be preempted: in its metadata, and by SIGTERM."""
        self.warn()
        self._terminate()

    def warn(self) -> None:
        """Says in the VM's metadata that it will be preempted."""
        self._metadata.preempt()

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
            if self._living and not self._frozen and not hurry.is_set() and self._terminate():
                hurried = asyncio.create_task(hurry.wait())
                await asyncio.wait(
                    [self._living, hurried], timeout=grace, return_when=asyncio.FIRST_COMPLETED
                )
                hurried.cancel()
            await self._kill()

    async def stop(self, grace: float, hurry: asyncio.Event) -> None:
        """Shuts the VM down for good, with its metadata server."""
        await self.shut_down(grace, hurry)
        self._metadata.close()
        await self._listener.stop()

    def _terminate(self) -> bool:
        if not (pid := self.pid):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        return True

    def _strike(self) -> None:
        if pid := self.pid:
            self._place.signal(pid, signal.SIGKILL)

    async def _kill(self) -> None:
        if self._doom:
            self._doom.cancel()
        self._strike()
        if self._living:
            await self._living

    async def _live(self, life: Life) -> None:
        code = await life.ended()
        # What its keeper has not killed, because it was killed itself or does not see it.
        while self._place.signal(life.session, signal.SIGKILL):
            await asyncio.sleep(RECHECK_SECONDS)
        self._on_exit(life.incarnation, code)
