"""A leader keeps what machines say of themselves, and writes it every few minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from trainer.coordinator.machines import Machines
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.world import MemberId
from trainer.rundir import clock as time_of_day
from trainer.rundir.directory import RunDirectory

LOOK = 5.0  # seconds between two looks whether it is time to write


class Gathering:
    """What the machines of a run do, on its way into the run directory.

    Args:
        run_dir: the run's.
        term: the leader's.
        clock: monotonic seconds.
        emit: takes an event.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        term: int,
        clock: Callable[[], float],
        emit: Callable[..., None],
    ) -> None:
        self._emit = emit
        self._run_dir = run_dir
        self._clock = clock
        self._machines = Machines(term, clock())

    def take(self, member: MemberId, told: pb.Machine) -> None:
        """A member's machine has said what it does."""
        for what in self._machines.errors(member.replica, told):
            self._emit("gpu_error", member=member.replica, reason=what)
        self._machines.take(member.replica, told, time_of_day.now())

    async def write_often(self) -> None:
        """Writes whenever it is time to, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            if self._machines.due(self._clock()):
                await self.write()

    async def write(self) -> None:
        """Writes what was gathered since the last time."""
        if (gathered := self._machines.gathered(self._clock())) is None:
            return

        def write() -> None:
            self._run_dir.store.write(gathered.name, gathered.encode())

        with suppress(OSError):  # five minutes of figures are worth no second try
            await asyncio.to_thread(write)
