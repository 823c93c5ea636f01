"""A bucket: the gradients of some parameters, and how they get in and out."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

PIECE = 2**20  # numbers of a low precision that are widened at once


class Bucket(ABC):
    """Gradients that are sent together, and what still has to arrive of them.

    Attributes:
        parameters: in the order in which backward is expected to reach them.
        expected, missing: how many arrivals there are in a backward pass, and still to come.
        sent: whether it is on its way, or has been.
        tail: further numbers, in float32 where the parameters' precision is lower.
        contents: what is sent.
        places: where in it a gradient is to be, by the id of its parameter; none where it stays.
    """

    contents: tuple[Tensor, ...] = ()
    places: Mapping[int, Tensor] = MappingProxyType({})

    def __init__(self, parameters: list[nn.Parameter], tail: Tensor) -> None:
        self.parameters = parameters
        self.expected = self.missing = len(parameters)
        self.sent = False
        self._set_tail(tail)

    def clear(self) -> None:
        """Lets go of the gradients: the first ones that come replace what is in the bucket."""
        self.sent = False
        for parameter in self.parameters:
            parameter.grad = None

    @abstractmethod
    def take(self, parameter: Tensor) -> None:
        """Backward has added to the parameter's gradient, which is not in its place, or has a
        history: after ``backward(create_graph=True)``.
        """

    @abstractmethod
    def pack(self) -> list[bool]:
        """Makes the gradients ready to be sent. What still comes, comes in memory of its own.

        Returns which parameters have one.
        """

    @abstractmethod
    def pack_late(self) -> tuple[Tensor, ...]:
        """The same with those that came late. What was summed before is set aside.

        Returns what is sent.
        """

    @abstractmethod
    def join(self) -> None:
        """Adds what was set aside."""

    @abstractmethod
    def divide(self, by: float) -> None:
        """Divides what was summed by a number."""

    @abstractmethod
    def norm(self) -> Tensor:
        """That of all gradients in it, on their device, shape []; see ``norm_of``."""

    @abstractmethod
    def unpack(self, reached: Sequence[float]) -> None:
        """Makes what was summed the parameters' gradients; None for what no rank has reached.

        Args:
            reached: by how many ranks, for each parameter.
        """

    def _set_tail(self, tail: Tensor) -> None:
        self.tail = tail
        on_cpu = tail.device.type == "cpu"
        self._plain = tail.numpy().data if on_cpu else None  # the same memory, sooner reached

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
        self._plain[:] = array(self._plain.format, numbers)  # what is too large becomes infinite


class Flat(Bucket):
    """Gradients in one buffer, which one collective sums."""

    def __init__(self, parameters: list[nn.Parameter], tail: int) -> None:
        super().__init__(parameters, self._made(parameters, tail))
        self._unheld = self._uses()
        self._first: Tensor | None = None

    def _made(self, parameters: list[nn.Parameter], tail: int) -> Tensor:
        """Makes the buffer, and returns its tail."""
        first = parameters[0]
        dtype, device = first.dtype, first.device
        numel = sum(p.numel() for p in parameters)
        if is_low(dtype):
            self.gradients = torch.zeros(numel, dtype=dtype, device=device)
            end = torch.zeros(tail, dtype=torch.float32, device=device)
            self.contents = (self.gradients, end)
        else:
            whole = torch.zeros(numel + tail, dtype=dtype, device=device)
            self.gradients, end = whole.split([numel, tail])
            self.contents = (whole,)
        views = self.gradients.split([p.numel() for p in parameters])
        self.views = [_shaped(view, p) for p, view in zip(parameters, views, strict=True)]
        self.places = {id(p): view for p, view in zip(parameters, self.views, strict=True)}
        return end

    def _uses(self) -> list[int]:
        """How often its memory, and each gradient, is referred to."""
        memory = torch._C._storage_Use_Count(self.gradients.untyped_storage()._cdata)
        return [memory, *(sys.getrefcount(view) for view in self.views)]

    def clear(self) -> None:
        """As in every bucket; what the program has kept of its gradients stays as it is."""
        super().clear()
        if any(now > before for now, before in zip(self._uses(), self._unheld, strict=True)):
            self._set_tail(self._made(self.parameters, len(self.tail)))
            self._unheld = self._uses()

    def take(self, parameter: Tensor) -> None:
        view, gradient = self.places[id(parameter)], parameter.grad
        if gradient is not view:  # the first of a step, or somebody called zero_grad()
            assert gradient is not None
            # After backward(create_graph=True) it has a history, which ends here.
            view.copy_(gradient.detach() if gradient.requires_grad else gradient)
            parameter.grad = view

    def pack(self) -> list[bool]:
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

    def pack_late(self) -> tuple[Tensor, ...]:
        self._first = self.gradients.clone()
        self.pack()
        return (self.gradients,)

    def join(self) -> None:
        if self._first is not None:
            self.gradients.add_(self._first)
            self._first = None

    def divide(self, by: float) -> None:
        self.gradients.div_(by)

    def norm(self) -> Tensor:
        return norm_of(self.gradients)

    def unpack(self, reached: Sequence[float]) -> None:
        for parameter, view, ranks in zip(self.parameters, self.views, reached, strict=True):
            parameter.grad = view if ranks > 0.5 else None


class Loose(Bucket):
    """Gradients where backward has left them: a rank that is alone has nothing to sum.

    So training alone costs neither a copy of each gradient nor the memory for it.
    """

    def __init__(self, parameters: list[nn.Parameter], tail: int) -> None:
        dtype = torch.float32 if is_low(parameters[0].dtype) else parameters[0].dtype
        super().__init__(parameters, torch.zeros(tail, dtype=dtype, device=parameters[0].device))
        self._held: list[Tensor | None] = []
        self._first: list[Tensor | None] = []

    def clear(self) -> None:
        super().clear()
        self._held, self._first = [], []

    def take(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is not None and gradient.requires_grad:  # see Flat.take
            parameter.grad = gradient.detach()

    def pack(self) -> list[bool]:
        self._held = []
        for parameter in self.parameters:
            gradient = parameter.grad
            if gradient is not None:
                gradient = gradient.detach() if gradient.requires_grad else gradient
                gradient = gradient.to(parameter.dtype)
                parameter.grad = None
            self._held.append(gradient)
        self.sent = True
        return [gradient is not None for gradient in self._held]

    def pack_late(self) -> tuple[Tensor, ...]:
        self._first = self._held
        self.pack()
        return ()

    def join(self) -> None:
        if self._first:
            both = zip(self._held, self._first, strict=True)
            self._held = [b if a is None else a if b is None else a + b for a, b in both]
            self._first = []

    def divide(self, by: float) -> None:
        # Not in place: the program may have given two parameters one gradient.
        self._held = [None if one is None else one / by for one in self._held]

    def norm(self) -> Tensor:
        held = [one for one in self._held if one is not None]
        if not held:
            return self.tail.new_zeros(())
        low = is_low(held[0].dtype)
        norms = [*map(norm_of, held)] if low else torch._foreach_norm(held)
        return norm_of(torch.stack(norms))

    def unpack(self, reached: Sequence[float]) -> None:
        for parameter, gradient, ranks in zip(self.parameters, self._held, reached, strict=True):
            parameter.grad = gradient if ranks > 0.5 else None
        self._held = []


def norm_of(gradients: Tensor) -> Tensor:
    """The norm, on the device, shape []; the quickest sum that an infinity or a NaN shows in.

    That of finite gradients is infinite when their squares are: then they are of no use, either.
    """
    if not is_low(gradients.dtype):
        norm: Tensor = torch.linalg.vector_norm(gradients)
        return norm
    # torch makes a copy of what it widens; and half has no room for squares.
    pieces = gradients.reshape(-1).split(PIECE)
    wide = [torch.linalg.vector_norm(one, dtype=torch.float32) for one in pieces]
    norm = torch.linalg.vector_norm(torch.stack(wide))
    return norm


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
