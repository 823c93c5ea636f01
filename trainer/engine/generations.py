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
from typing import Any

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError

from trainer.engine.agreement import Agreement, agree
from trainer.engine.portable import Portable, Sender
from trainer.engine.stay import Stay, horovod_init
from trainer.engine.transfer import broadcast_tree
from trainer.protocol import messages
from trainer.protocol.channel import Channel

TOLD = 64  # sample ids

RECEIVED_EVERY = 0.25  # seconds between two signs of life during a transfer
EVENT_EVERY = 1.0  # seconds between two events about how a transfer goes


class Generations:
    """Joins world after world, and keeps the agent informed.

    Args:
        channel: where generations come from.
        clock: monotonic seconds.

    Attributes:
        number: the newest generation that this worker was ordered into.
        rank: its rank there, once it has joined.
        size: that world's size.
        agreed: what its ranks brought into it.
        careful: whether workers have died in the steps that come: then this one says at once which
            samples it takes, and that it has taken them.
        failed: why the newest world was left, if nobody asked for it.
        since: when this worker began in the newest world, in seconds of the clock.
    """

    def __init__(self, channel: Channel, clock: Callable[[], float] = time.monotonic) -> None:
        self.channel = channel
        self.number = 0
        self.leader_term = 0
        self.rank = 0
        self.size = 1
        self.agreed = Agreement(())
        self.careful = False
        self.failed = ""
        self._clock = clock
        self.since = clock()
        self._stay: Stay | None = None
        self._unanswered = 0  # a generation that was left because training is complete
        self._last_step_at: float | None = None

    @property
    def world(self) -> str:
        """Names the current world; no other has the name, whoever leads: for checkpoints."""
        return f"{self.leader_term:06d}-{self.number:06d}"

    @property
    def inside(self) -> bool:
        """Whether this worker is in a world."""
        return self._stay is not None

    def ready(self) -> None:
        """Says that this worker is warm: it can join a world at once."""
        self.channel.send(messages.Ready())

    def emit(self, event: str, **fields: Any) -> None:
        """Emits an event of trainer.rundir.events, through the agent."""
        self.channel.send(messages.Event(event, fields))

    def enter(
        self,
        state: Portable,
        save: Callable[[messages.Save], None] = lambda order: None,
        init: Callable[[], None] = horovod_init,
    ) -> bool:
        """Waits for a generation and joins it; all its ranks hold the same state then.

        Args:
            state: what survives from world to world.
            save: has a share of a checkpoint of ``state`` written, and calls ``saved`` in the end;
                called when the agent orders it.
            init: makes this process a rank, as ``hvd.init()`` does.

        Returns False when the worker's life is over.
        """
        while True:
            match order := self.channel.next():
                case messages.Form():
                    if self._start(order, state, init):
                        return True
                case messages.Save():
                    if state.clean:
                        save(order)
                    else:
                        self.saved(state.step, "it is of no completed step")
                case messages.Pause(generation) | messages.Abort(generation):
                    # Whoever trains in it has learned of it elsewhere, and has stopped by now.
                    if generation == self._unanswered:
                        self._send_stopped(state, "")
                case messages.Exit():
                    return False

    def break_off(self) -> None:
        """Breaks the connections to all peers: a collective failed, here first perhaps."""
        if self._stay is not None:
            self._stay.break_off()

    def leave(self, state: Portable, failed: str = "", cause: str = "") -> None:
        """Leaves the world, paused after a step, or because a collective ``failed``.

        ``cause`` is why the ranks want another one, if they do: "repeat" or "rollback".
        """
        assert self._stay is not None
        self.failed = failed
        if failed:
            self._stay.break_off()
        self._shut_down()
        self._send_stopped(state, failed, cause)

    def finish(self) -> None:
        """Leaves the world without a word: training is complete, as far as this worker knows.

        It says so (``resume``) when it is ordered to leave, or finds that it was wrong.
        """
        self._shut_down()
        self._unanswered = self.number

    def resume(self, state: Portable, failed: str = "") -> None:
        """Says that the world which ``finish`` left was left to enter another one."""
        if self._unanswered:
            self._send_stopped(state, failed)

    def abandon(self) -> None:
        """Leaves the world, if there is one, because the user's code raised."""
        if self._stay is not None:
            self._shut_down()

    def saved(self, step: int, unsaved: str = "") -> None:
        """Says that the state of ``step`` is in a checkpoint, or why it is ``unsaved``."""
        self.channel.send(messages.Saved(step, unsaved))

    def done(
        self, step: int, metrics: dict[str, float], unsaved: str = "", by_all: bool = False
    ) -> None:
        """Says that training is complete, and what of it is not saved; see messages.Done."""
        self.channel.send(messages.Done(self.number, self.rank, step, metrics, unsaved, by_all))

    def agree(self, state: Portable) -> Agreement:
        """Tells all ranks what this one holds. A collective: every rank must call it."""
        with self.channel.collective():
            return agree(state.holding)

    def taking(self, step: int, samples: torch.Tensor) -> None:
        """The step after ``step`` begins; it may be the last that is heard of this worker."""
        if self.careful:
            self.channel.send(messages.Taking(step, samples[:TOLD].tolist(), len(samples)))

    def step_completed(self) -> None:
        """To be called when a step has been applied: the time since then is a pause."""
        self._last_step_at = self._clock()

    def check_aborted(self) -> None:
        """Raises HorovodInternalError when the running generation has been broken off."""
        if self.channel.aborted(self.number) and self._stay is not None:
            self._stay.check_aborted()

    def _start(self, order: messages.Form, state: Portable, init: Callable[[], None]) -> bool:
        self.number = order.generation
        self.leader_term = order.term
        self.careful = order.careful
        self.failed = ""
        self._unanswered = 0
        self._stay = Stay(self.channel, order)
        try:
            device = state.prepare()
            self._stay.join(init)
            self.rank, self.size = hvd.rank(), hvd.size()
            began = self._clock()
            self.agreed = self.agree(state)
            self.agreed.require_alike(self.rank)
            sent = state.adopt(self.agreed, self._sender(device))
        except HorovodInternalError as error:
            self.leave(state, str(error) or "a collective failed")
            return False
        except BaseException:
            self.abandon()
            raise
        self.since = now = self._clock()
        idle = None if self._last_step_at is None else now - self._last_step_at
        self.channel.send(
            messages.Started(
                generation=self.number,
                rank=self.rank,
                step=state.step,
                idle=idle,
                bytes=sent,
                seconds=now - began,
            )
        )
        return True

    def _sender(self, device: torch.device) -> Sender:
        """Sends the root's state to all ranks, and says every now and then how far that is."""
        began = self._clock()
        said = {"received": began, "event": began}

        def due(what: str, every: float) -> bool:
            now = self._clock()
            if now - said[what] < every:
                return False
            said[what] = now
            return True

        def progress(sent: int, total: int) -> None:
            if due("received", RECEIVED_EVERY) or sent == total:
                self.channel.send(messages.Received(self.number, sent))
            if self.rank == self.agreed.root and (due("event", EVENT_EVERY) or sent == total):
                self.emit(
                    "state_sent",
                    generation=self.number,
                    bytes=sent,
                    total_bytes=total,
                    seconds=round(self._clock() - began, 4),
                )

        def send(tree: Any | None, wants: bool) -> tuple[Any, int]:
            with self.channel.collective():
                return broadcast_tree(tree, self.agreed.root, device, progress, keep=wants)

        return send

    def _shut_down(self) -> None:
        assert self._stay is not None
        self._stay.leave()
        self._stay = None

    def _send_stopped(self, state: Portable, failed: str, cause: str = "") -> None:
        self._unanswered = 0
        stopped = messages.Stopped(self.number, state.step, state.clean, failed, cause=cause)
        self.channel.send(stopped)
