"""A bucket: the gradients of some parameters in one flat buffer, and how they get in and out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn


class Bucket:
    """A flat buffer, the parameters whose gradients it holds, and what still has to arrive.

    Attributes:
        gradients: all of them, in the precision of the parameters.
        tail: ``tail`` further numbers, in float32 where that is higher.
        contents: what is sent: both in one tensor, or apart where their precisions differ.
        parameters: in the order in which backward is expected to reach them.
        expected, missing: how many arrivals there are in a backward pass, and still to come.
        sent: whether it is on its way, or has been.
    """

    def __init__(self, parameters: list[nn.Parameter], tail: int) -> None:
        first = parameters[0]
        dtype, device = first.dtype, first.device
        numel = sum(p.numel() for p in parameters)
        if is_low(dtype):
            self.gradients = torch.zeros(numel, dtype=dtype, device=device)
            self.tail = torch.zeros(tail, dtype=torch.float32, device=device)
            self.contents: tuple[Tensor, ...] = (self.gradients, self.tail)
        else:
            whole = torch.zeros(numel + tail, dtype=dtype, device=device)
            self.gradients, self.tail = whole.split([numel, tail])
            self.contents = (whole,)
        on_cpu = device.type == "cpu"
        self._plain = self.tail.numpy() if on_cpu else None  # the same memory, sooner reached
        self.parameters = parameters
        self.expected = self.missing = len(parameters)
        self.sent = False
        views = self.gradients.split([p.numel() for p in parameters])
        self.views = [_shaped(view, p) for p, view in zip(parameters, views, strict=True)]
        self.places = {id(p): view for p, view in zip(parameters, self.views, strict=True)}

    def clear(self) -> None:
        """Lets go of the gradients: the first ones that come overwrite what is in the bucket."""
        self.sent = False
        for parameter in self.parameters:
            parameter.grad = None

    def take(self, parameter: Tensor) -> None:
        """Backward has added to the parameter's gradient: it goes in the bucket."""
        view, gradient = self.places[id(parameter)], parameter.grad
        if gradient is not view:  # the first of a step, or somebody called zero_grad()
            assert gradient is not None
            # After backward(create_graph=True) it has a history, which ends here.
            view.copy_(gradient.detach() if gradient.requires_grad else gradient)
            parameter.grad = view

    def pack(self) -> list[bool]:
        """Makes the gradients ready to be sent. What still comes, comes in memory of its own.

        Returns which parameters have one.
        """
        reached = []
        for parameter, view in zip(self.parameters, self.views, strict=True):
            gradient = parameter.grad
            reached.append(gradient is not None)
            if gradient is None:
                view.zero_()
            else:
                if gradient is not view:  # where the program has set it by itself
                    self.take(parameter)
                parameter.grad = None
        self.sent = True
        return reached

    def fill_tail(self, numbers: list[float], place: int | None, norm: Tensor | None) -> None:
        """Sets the numbers that travel with the gradients.

        Args:
            numbers: all of them.
            place: of the one that ``norm`` is added to, which the device has computed.
        """
        if self._plain is None:
            self.tail.copy_(torch.tensor(numbers, dtype=self.tail.dtype, device="cpu"))
            if place is not None and norm is not None:
                self.tail[place].add_(norm)  # nobody waits for the GPU
            return
        if place is not None and norm is not None:
            numbers[place] += float(norm)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, as everywhere
            self._plain[:] = numbers

    def unpack(self, reached: Iterator[float]) -> None:
        """Makes what was summed the parameters' gradients; None for what no rank has reached.

        Args:
            reached: by how many ranks, for each parameter; as many are taken as there are.
        """
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view if next(reached) > 0.5 else None


def is_low(dtype: torch.dtype) -> bool:
    """Whether a precision is so low that sums and counts need a higher one."""
    return dtype in (torch.bfloat16, torch.float16)


def _shaped(flat: Tensor, parameter: Tensor) -> Tensor:
    """A flat tensor as a gradient of a parameter: in the order in which that is in memory.

    A fused optimizer walks both as they lie there, whatever their strides are.
    """
    dense = 1
    for stride, size in sorted(zip(parameter.stride(), parameter.shape, strict=True)):
        if size != 1 and stride != dense:
            return flat.view(parameter.shape)  # it has gaps, or overlaps itself
        dense *= size
    return flat.as_strided(parameter.shape, parameter.stride())


def grouped(parameters: Iterable[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """Groups of parameters of one dtype and device, each up to ``bucket_bytes``.

    What fills a bucket by itself is alone, and ends no other: each costs a collective. They come in
    the order of their last parameters, in which backward completes them.
    """
    groups: list[list[tuple[int, nn.Parameter]]] = []
    filling: dict[tuple[torch.dtype, torch.device], list[tuple[int, nn.Parameter]]] = {}
    room: dict[tuple[torch.dtype, torch.device], int] = {}
    for number, parameter in enumerate(parameters):
        kind = parameter.dtype, parameter.device
        size = parameter.numel() * parameter.element_size()
        if size >= bucket_bytes:
            groups.append([(number, parameter)])
            continue
        if size > room.get(kind, -1):
            filling[kind], room[kind] = [], bucket_bytes
            groups.append(filling[kind])
        filling[kind].append((number, parameter))
        room[kind] -= size
    groups.sort(key=lambda group: group[-1][0])
    return [[parameter for _, parameter in group] for group in groups]
