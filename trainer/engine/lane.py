"""The way of a batch to the device: on a GPU it is taken while the step before computes.

A batch is sent as soon as it is made, and arrives when its step asks for it. To a GPU it goes
through pinned memory, which alone is copied beside what the processor does, on a stream of its own,
beside what the GPU does. On a CPU nothing is to be done at either end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.engine.device import mapped, to_device


@dataclass(frozen=True)
class Sent:
    """A batch on its way.

    Attributes:
        batch: where it will be.
        there: what the device has recorded after the copy; None where nothing is to be waited for.
    """

    batch: Any
    there: Any = None


class Lane(Protocol):
    """The way to one device."""

    def send(self, batch: Any) -> Sent:
        """Begins to bring a batch to the device: a tensor, or dicts, lists and tuples of them."""

    def arrive(self, sent: Sent) -> Any:
        """Returns it, to be used by what is computed from now on."""


def lane_to(device: torch.device, channels_last: bool = False) -> Lane:
    """The way to a device; see ``to_device`` for ``channels_last``."""
    if device.type == "cuda":
        return Beside(device, channels_last)
    return Direct(device, channels_last)


class Direct:
    """The way to a device that needs none: what computes has the batch in its memory."""

    def __init__(self, device: torch.device, channels_last: bool) -> None:
        self._device = device
        self._channels_last = channels_last

    def send(self, batch: Any) -> Sent:
        """Returns it where it is."""
        return Sent(to_device(batch, self._device, self._channels_last))

    def arrive(self, sent: Sent) -> Any:
        """Returns it."""
        return sent.batch


class Beside:
    """The way to a GPU, on a stream of its own.

    Args:
        device: the GPU.
        channels_last: see ``to_device``.
        cuda: ``torch.cuda``, or what stands in for it.
        pin: copies a tensor into pinned memory.
    """

    def __init__(
        self,
        device: torch.device,
        channels_last: bool,
        cuda: Any = torch.cuda,
        pin: Callable[[Tensor], Tensor] = Tensor.pin_memory,
    ) -> None:
        self._device = device
        self._channels_last = channels_last
        self._cuda = cuda
        self._pin = pin
        self._stream = cuda.Stream(device)

    def send(self, batch: Any) -> Sent:
        """Begins the copy. Pinned memory is not used again before the copy is over: by torch."""
        pinned = mapped(lambda one: self._pin(one) if one.device.type == "cpu" else one, batch)
        with self._cuda.stream(self._stream):
            moved = to_device(pinned, self._device, self._channels_last)
            return Sent(moved, self._stream.record_event())

    def arrive(self, sent: Sent) -> Any:
        """Has the current stream wait for the copy; this process does not."""
        now = self._cuda.current_stream(self._device)
        now.wait_event(sent.there)

        def keep(one: Tensor) -> Tensor:
            one.record_stream(now)  # else its memory could be another batch's while it is used
            return one

        return mapped(keep, sent.batch)
