"""Buckets on their way: Horovod sums them over the ranks, in place where it can.

It sums no bfloat16, and a low precision can carry neither sums nor counts well. Such gradients
travel as float32, in wires that are used again and again: a second buffer for each bucket would be
as large as all of the model and its gradients.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError
from torch import Tensor

from trainer.engine.bucket import is_low
from trainer.engine.mistake import Mistake
from trainer.engine.stay import horovod_init

LENGTH = 2**20  # gradients that a wire carries
UNDER_WAY = 4  # wires
SHORTEST_NAP = 50e-6  # seconds
LONGEST_NAP = 1e-3  # seconds


def join_unfused() -> None:
    """``hvd.init()``, for sums of buckets that are large enough.

    Horovod would copy several at once into a buffer of 128 MiB, and back.
    """
    os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
    horovod_init()


class Wires:
    """What is being summed, and the wires that are free."""

    def __init__(self) -> None:
        self._under_way: deque[tuple[int, Tensor, Sequence[Tensor]]] = deque()
        self._free: list[Tensor] = []
        self._usual = 0.0  # seconds of a wait

    def send(self, contents: Sequence[Tensor], name: str) -> None:
        """Begins to sum what a bucket holds. All ranks send alike, in the same order.

        Args:
            contents: gradients; and the numbers that travel with them, if they are not in it.
            name: the same on all ranks.
        """
        gradients, *numbers = contents
        if not is_low(gradients.dtype):
            self._under_way.append((_allreduce(gradients, name), gradients, ()))
            return
        *pieces, last = gradients.split(LENGTH)
        for place, carried in enumerate([*([one] for one in pieces), [last, *numbers]]):
            while sum(bool(one) for _, _, one in self._under_way) >= UNDER_WAY:
                self._land(time.perf_counter())
            wire = self._taken(sum(map(len, carried)), gradients.device)
            for part, on_wire in zip(carried, _places(wire, carried), strict=True):
                on_wire.copy_(part)
            handle = _allreduce(wire[: sum(map(len, carried))], f"{name}.{place}")
            self._under_way.append((handle, wire, carried))

    def wait(self) -> None:
        """Waits for all sums; at first for half as long as it has mostly taken.

        Raises HorovodInternalError when a peer was lost.
        """
        if not self._under_way:
            return
        began = time.perf_counter()
        if self._usual > 2 * SHORTEST_NAP:
            time.sleep(min(self._usual / 2, LONGEST_NAP))
        while self._under_way:
            self._land(began)
        took = time.perf_counter() - began
        self._usual = min(took, 2 * self._usual or took)

    def forget(self) -> None:
        """Nobody waits for what is under way; its wires may still be written to."""
        self._under_way.clear()

    def _land(self, began: float) -> None:
        handle, wire, carried = self._under_way.popleft()
        _wait(handle, began)
        if carried:
            for part, on_wire in zip(carried, _places(wire, carried), strict=True):
                part.copy_(on_wire)
            self._free.append(wire)

    def _taken(self, length: int, device: torch.device) -> Tensor:
        """A wire of at least some length: one that is free, or a new one."""
        wire = self._free.pop() if self._free else None
        if wire is None or len(wire) < length or wire.device != device:
            wire = torch.empty(max(length, LENGTH), dtype=torch.float32, device=device)
        return wire


def _places(wire: Tensor, carried: Sequence[Tensor]) -> Sequence[Tensor]:
    """Where on a wire what it carries is."""
    lengths = [*map(len, carried)]
    places: Sequence[Tensor] = wire[: sum(lengths)].split(lengths)
    return places


def _allreduce(tensor: Tensor, name: str) -> int:
    handle: Any = hvd.allreduce_async_(tensor, op=hvd.Sum, name=name)
    return int(handle)


def _wait(handle: int, began: float) -> None:
    """Waits for a collective, with sleeps that grow with the wait, since ``began``.

    Horovod's own wait wakes 10,000 times a second: on a machine with more workers than
    cores that costs those who still compute a third of the time.
    """
    while not hvd.poll(handle):
        waited = time.perf_counter() - began
        time.sleep(min(max(waited / 8, SHORTEST_NAP), LONGEST_NAP))
    try:
        hvd.synchronize(handle)
    except HorovodInternalError as error:
        if "Mismatched" in str(error):  # the ranks' buckets are not alike, so nobody was lost
            raise Mistake(
                "SW5111",
                "the workers do not train the same parameters: requires_grad, their shapes or "
                f"their precision differ between ranks ({error})",
            ) from None
        raise
