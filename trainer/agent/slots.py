"""The worker processes of one agent: for each slot an active one, and warm spares."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from trainer.agent.nursery import Nursery
from trainer.agent.worker_process import WorkerProcess
from trainer.protocol.messages import Message, ToWorker

SETTLING = 1.0  # seconds after which a world that has begun trains undisturbed
RESPAWN_PAUSE = 1.0  # seconds before a worker that died early is started again


@dataclass
class Slot:
    """One place for a worker: a GPU, or a share of the CPU."""

    index: int
    active: WorkerProcess
    spares: list[WorkerProcess] = field(default_factory=list)


class Slots:
    """Starts, promotes and replaces worker processes.

    Args:
        count: how many slots.
        spares: how many warm spares each slot keeps; see ``fill_soon``.
        environment: gives a worker's environment, by (slot, serial, whether it is a spare).
        on_message, on_exit: see WorkerProcess.start; ``on_exit`` is called for every death.
        nursery: where they come from, if they can.
    """

    def __init__(
        self,
        count: int,
        spares: int,
        environment: Callable[[int, int, bool], dict[str, str]],
        on_message: Callable[[WorkerProcess, Message], Awaitable[None]],
        on_exit: Callable[[WorkerProcess, int], Awaitable[None]],
        nursery: Nursery | None = None,
    ) -> None:
        self._count = count
        self._spares = spares
        self._environment = environment
        self._on_message = on_message
        self._on_exit = on_exit
        self._nursery = nursery
        self._serial = 0
        self._filling: asyncio.Future[None] | None = None
        self._closing = False
        self.all: list[Slot] = []

    async def live(self) -> None:
        """Starts the active worker of every slot; until it is cancelled, they are kept."""
        for index in range(self._count):
            self.all.append(Slot(index, await self._spawn(index, spare=False)))
        await asyncio.get_running_loop().create_future()

    def fill_soon(self) -> None:
        """Has the spares that are missing started in a moment.

        Until it is warm a process needs the processors as much as one that trains: while a world
        forms, and in its first steps, it would delay them.
        """

        async def fill() -> None:
            await asyncio.sleep(SETTLING)
            for slot in self.all:
                while not self._closing and len(slot.spares) < self._spares:
                    slot.spares.append(await self._spawn(slot.index, spare=True))

        if self._filling is None or self._filling.done():
            self._filling = asyncio.ensure_future(fill())

    @property
    def idle(self) -> bool:
        """Whether every slot has a worker that is warm and waits for a generation."""
        return len(self.all) == self._count and all(slot.active.idle for slot in self.all)

    def send(self, order: ToWorker) -> None:
        """Sends an order to the active worker of every slot."""
        for slot in self.all:
            slot.active.send(order)

    def is_active(self, worker: WorkerProcess) -> bool:
        """Whether ``worker`` is the active one of its slot."""
        return self.all[worker.slot].active is worker

    async def replace(self, worker: WorkerProcess) -> None:
        """Puts another process in the place of one that died: of an active one a warm spare."""
        if self._closing:
            return
        slot = self.all[worker.slot]
        if worker in slot.spares:
            slot.spares.remove(worker)
            self.fill_soon()
            return
        warm = next((spare for spare in slot.spares if spare.idle), None)
        if warm is not None:
            slot.spares.remove(warm)
            slot.active = warm
            return
        if not worker.ready:
            await asyncio.sleep(RESPAWN_PAUSE)
        slot.active = await self._spawn(slot.index, spare=False)

    async def close(self, grace: float) -> None:
        """Ends all processes; those that do not exit within ``grace`` seconds are killed."""
        self._closing = True
        for slot in self.all:
            for spare in slot.spares:
                spare.kill()  # it holds nothing
        workers = [one for slot in self.all for one in (slot.active, *slot.spares)]
        await asyncio.gather(*(worker.close(grace) for worker in workers))

    async def _spawn(self, index: int, *, spare: bool) -> WorkerProcess:
        self._serial += 1
        worker = WorkerProcess(index, self._serial)
        await worker.start(
            self._environment(index, self._serial, spare),
            self._on_message,
            self._on_exit,
            self._nursery,
        )
        return worker
