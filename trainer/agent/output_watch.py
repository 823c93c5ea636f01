"""An agent's care for its script's output folder: it watches while processes run, and keeps order.

What is done with the folder takes as long as the store does, so it happens in threads, one thing at
a time: a generation begins only after the last one's end was copied, or given up.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from trainer.agent.code import scratch_folder
from trainer.agent.replica import Replica
from trainer.agent.settings import Settings
from trainer.outputs.commits import Version
from trainer.outputs.outputs import Outputs
from trainer.rundir.bundle import MAX_NAME
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter

LOOK_EVERY = 1.0  # seconds; a checkpoint is committed some such looks after it has settled
AGAIN = 1.0  # seconds, when the store has refused something

T = TypeVar("T")

log = logging.getLogger("swell.agent")


class OutputWatch:
    """Watches one output folder.

    Args:
        outputs: what does the work.
        emit: emits an event of trainer.rundir.events.

    Attributes:
        root: the folder.
    """

    def __init__(self, outputs: Outputs, emit: Callable[..., None]) -> None:
        self.root = outputs.root
        self._outputs = outputs
        self._emit = emit
        self._turn = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._generation = 0  # that is being watched; 0 for none
        self._said: set[str] = set()  # files that are not saved

    @classmethod
    def of_run(
        cls,
        replica: Replica,
        run_dir: RunDirectory,
        settings: Settings,
        env: Mapping[str, str],
        events: EventWriter,
    ) -> OutputWatch | None:
        """The watch over a torchrun script's folder; None for other programs. Raises OSError."""
        if settings.torchrun is None:
            return None
        run = hashlib.sha256(run_dir.url.encode()).hexdigest()[:12]
        root = scratch_folder(env) / f"output-{run}-{replica.name.replace('/', '-')}" / "output"
        return cls(Outputs(RunDirectory(run_dir.url), root), events.emit)

    async def newest(self) -> str:
        """The name of the newest version, to which a generation is to be restored.

        What the last generation left in its end is committed before.
        """
        self._tell(await self._insist(self._outputs.close))
        version = await self._insist(self._outputs.newest)
        return version.name if version.generation else ""

    async def begin(self, generation: int, index: int, count: int, name: str) -> None:
        """Brings the folder to a version, and watches it from now on; see Outputs.begin."""

        def restore() -> None:
            version = self._outputs.version(name)
            self._outputs.begin(generation, index, count, version)

        await self._insist(restore)
        self._generation = generation

    async def watch(self) -> None:
        """Looks at the folder every now and then, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._generation:
                with suppress(OSError):  # at the next look, then
                    await self._look()

    def stop(self) -> None:
        """Looks no more: who writes is about to end, or has, and quiet does not mean finished."""
        self._generation = 0

    async def end(self, *, whole: bool, limit: float | None = None) -> None:
        """The generation's processes here have ended: copies what they have left.

        Args:
            whole: see Outputs.look.
            limit: seconds that are waited for it; None for as long as it takes.
        """
        self._generation = 0

        async def look() -> None:
            self._tell(await self._insist(lambda: self._outputs.look(final=True, whole=whole)))
            self._warn()

        # What takes longer goes on, and the next generation begins after it.
        self._ending = asyncio.create_task(look())
        await asyncio.wait({self._ending}, timeout=limit)
        if self._ending.done():
            self._ending.result()

    async def finish(self) -> None:
        """On the VM of rank 0: waits until all VMs have copied theirs, and commits it."""
        while not await self._insist(self._outputs.complete):
            await asyncio.sleep(AGAIN)
            if self._generation:
                return  # another one has begun
        self._tell(await self._insist(lambda: self._outputs.look(final=True, whole=True)))

    async def _look(self) -> None:
        async with self._turn:
            if self._generation:
                self._tell(await asyncio.to_thread(self._outputs.look))
                self._warn()

    def _warn(self) -> None:
        """Says of what is not saved why it is not."""
        whys = (
            (self._outputs.restless, "is written all the time, and is not saved"),
            (
                self._outputs.nameless,
                "is not saved: a name in it has a backslash, is not UTF-8, or is longer than "
                f"{MAX_NAME:,} bytes",
            ),
        )
        for names, why in whys:
            for name in names - self._said:
                self._said.add(name)
                log.warning("output: %s %s", os.fsencode(name).decode(errors="replace"), why)

    def _tell(self, version: Version | None) -> None:
        if version is not None and version.entries:  # of logs alone nobody goes on
            size = sum(file.size for file in version.files.values())
            names = sorted(version.entries)
            self._emit("output_committed", generation=version.generation, names=names, bytes=size)

    async def _insist(self, work: Callable[[], T]) -> T:
        """Does what the store may refuse for a while."""
        said = 0.0
        while True:
            try:
                async with self._turn:
                    return await asyncio.to_thread(work)
            except OSError as error:
                if time.monotonic() - said > 60:
                    said = time.monotonic()
                    log.warning("the output folder is not in step, trying again: %s", error)
                await asyncio.sleep(AGAIN)
