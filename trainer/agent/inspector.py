"""What a coordinator asks about an agent's workers: what they do, why one is slow, profiles."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import psutil

from trainer.agent.generation import Generation
from trainer.agent.slots import Slots
from trainer.agent.stacks import stacks_of
from trainer.agent.strain import watch
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.wire import profile_from_message


class Inspector:
    """Answers beside everything else: to look takes a moment.

    Args:
        slots: the agent's.
        say: called with each answer.
    """

    def __init__(self, slots: Slots, say: Callable[..., None]) -> None:
        self._slots = slots
        self._say = say
        self._looking: set[asyncio.Task[None]] = set()

    def answer(self, order: pb.FromCoordinator, generation: Generation | None) -> None:
        """Finds out what is asked of ``generation``, the newest, and says it when that is done.

        What is asked of another has no answer. That of a profile is its worker's, an event.
        """
        kind = order.WhichOneof("body")
        asked: pb.Examine | pb.Profile | pb.Inspect = order.inspect
        if kind != "inspect":
            asked = order.examine if kind == "examine" else order.profile
        if generation is None or asked.generation != generation.number:
            return
        if kind == "profile":
            for slot in self._slots.all:
                if slot.active.rank == order.profile.rank:
                    slot.active.send(profile_from_message(order.profile))
        elif kind == "examine":
            self._begin(self._examine(order.examine))
        else:
            self._begin(self._inspect(order.inspect, generation.ended_in))

    def _begin(self, look: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(look)
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _inspect(self, asked: pb.Inspect, ended: set[int]) -> None:
        slots, numbers = [*self._slots.all], (asked.number, asked.generation)
        self._say(stacks=await asyncio.to_thread(stacks_of, *numbers, slots, ended))

    async def _examine(self, asked: pb.Examine) -> None:
        workers = [slot.active for slot in self._slots.all]
        pids = [one.computes for one in workers if one.rank == asked.rank]
        reason = ""
        if pids and pids[0] is not None:
            reason = await asyncio.to_thread(watch, pids[0], await asyncio.to_thread(_own))
        self._say(examined=pb.Examined(generation=asked.generation, rank=asked.rank, reason=reason))


def _own() -> set[int]:
    """The processes of this agent, itself among them."""
    children = psutil.Process().children(recursive=True)
    return {os.getpid(), *(one.pid for one in children)}
