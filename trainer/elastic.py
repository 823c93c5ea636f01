"""One worker's life through all generations of the world, without restarting.

Horovod reads its environment again at every ``hvd.init()``, so one process can join
world after world::

    wait for a generation ─► hvd.init() ─► who holds what? ─► flat transfer, if needed
        ▲                                                        │
        └── hvd.shutdown() ◄── paused, aborted, or a peer lost ◄─┴─ train step by step

No rollback: a collective that fails leaves the parameters untouched, because the
optimizer steps only after all gradients arrived. So the survivors are at the last
completed step, and the most advanced clean one is the root of the next generation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError

from trainer.channel import Channel, Generation
from trainer.stay import Stay
from trainer.transfer import broadcast_tree


class Portable(Protocol):
    """State that survives: what a worker holds, in a form that can be sent.

    Attributes:
        step: steps completed.
        clean: whether the state is that of ``step`` exactly (not in the middle of an
            update) and was trained or received, not merely initialised.
    """

    step: int
    clean: bool

    def prepare(self) -> torch.device:
        """Makes ready for a first generation (device, optimizer); called before each."""

    def export(self) -> Any:
        """The state as a tree of tensors and plain values (see trainer.tree)."""

    def load(self, tree: Any) -> None:
        """Takes over a state that ``export`` made, here or elsewhere."""

    def restore(self) -> None:
        """Loads the newest valid checkpoint, or leaves the state at step 0 if there is none."""


@dataclass(frozen=True)
class Synced:
    """What the start of a generation did.

    Attributes:
        root: the rank whose state everybody holds now.
        bytes: how many bytes of state were sent; 0 when nobody needed any.
        seconds: how long joining and sending took.
    """

    root: int
    bytes: int
    seconds: float


class Elastic:
    """Joins world after world, and calls back to train in each.

    Args:
        channel: where generations come from.
        clock: monotonic seconds.
    """

    def __init__(self, channel: Channel, clock: Callable[[], float] = time.monotonic) -> None:
        self.channel = channel
        self._clock = clock
        self._last_step_at: float | None = None
        self._generation = Generation(0)
        self._stay: Stay | None = None

    @property
    def generation(self) -> int:
        """The number of the current generation."""
        return self._generation.number

    def run(
        self,
        state: Portable,
        train: Callable[[], bool],
        save: Callable[[], None] = lambda: None,
    ) -> None:
        """Lives until the channel ends.

        Args:
            state: what survives from world to world.
            train: trains in the current world; returns True when training is complete,
                False when the world is to be left (``should_leave`` said so).
            save: writes a checkpoint of ``state``, between worlds.

        Raises whatever ``train`` raises, except for lost peers.
        """
        while (order := self.channel.next()) is not None:
            if isinstance(order, Generation):
                self._live(order, state, train)
            else:
                if state.clean:
                    save()
                self.channel.send("saved", step=state.step)

    def _live(self, generation: Generation, state: Portable, train: Callable[[], bool]) -> None:
        self._generation = generation
        done = False
        failed = ""
        with Stay(self.channel, generation) as self._stay:
            try:
                device = state.prepare()
                self._stay.join()
                synced = self._synchronise(state, device)
                self.channel.send(
                    "started",
                    generation=generation.number,
                    rank=hvd.rank(),
                    step=state.step,
                    idle=self._idle(),
                    bytes=synced.bytes,
                    seconds=synced.seconds,
                )
                done = train()
            except HorovodInternalError as error:
                failed = str(error) or "a collective failed"
                self._stay.break_off()
        if not done:
            self.channel.send(
                "stopped",
                generation=generation.number,
                step=state.step,
                clean=state.clean,
                failed=failed,
            )

    def step_completed(self) -> None:
        """To be called when a step has been applied: the time since then is a pause."""
        self._last_step_at = self._clock()

    def _idle(self) -> float | None:
        return None if self._last_step_at is None else self._clock() - self._last_step_at

    def check_aborted(self) -> None:
        """Raises HorovodInternalError when the running generation has been broken off."""
        if self._stay is not None:
            self._stay.check_aborted()

    def _synchronise(self, state: Portable, device: torch.device) -> Synced:
        """Makes all ranks hold the state of the most advanced clean one."""
        began = self._clock()
        mine = torch.tensor([[state.step, int(state.clean)]], dtype=torch.int64)
        with self.channel.collective():
            held = hvd.allgather(mine, name="state.held").tolist()
        root = max(range(len(held)), key=lambda rank: (held[rank][1], held[rank][0], -rank))
        sent = 0
        if not held[root][1]:
            root = 0
            if hvd.rank() == root:
                state.restore()
        if not all(one == held[root] and one[1] for one in held):
            sending = hvd.rank() == root
            exported = state.export() if sending else None
            with self.channel.collective():
                tree, sent = broadcast_tree(exported, root, device)
            if not sending:
                state.load(tree)
            state.clean = True
        return Synced(root, sent, self._clock() - began)
