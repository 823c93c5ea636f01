"""State from one worker to all others: one flat buffer after another, metadata once.

Horovod's ``broadcast_object`` needs seconds for megabytes; one flat tensor needs
hundredths of that.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor

from trainer.checkpoints.tree import as_bytes, describe, flatten, make_like, size_of, unflatten

CHUNK = 16 * 2**20  # bytes that are sent at once, at most
ALONE = 2**20  # bytes from which on a tensor is sent from where it is, not with others
UNDER_WAY = 8  # groups: to agree on one takes Horovod longer than to send it
_ALIGN = 16  # bytes; copies between aligned places are the fast ones


@dataclass(frozen=True)
class Piece:
    """Some bytes of one of the tensors."""

    tensor: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes."""
        return self.stop - self.start

    @property
    def room(self) -> int:
        """How many bytes it takes in a buffer that it shares."""
        return -(-self.size // _ALIGN) * _ALIGN


def broadcast_tree(
    tree: Any | None,
    root: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda sent, total: None,
    *,
    keep: bool = True,
) -> tuple[Any, int]:
    """Sends the root's tree to all ranks. A collective: every rank must call it.

    Args:
        tree: the state on the root; ignored elsewhere.
        root: the rank that sends.
        device: where the receivers want their tensors, but for those that the root has on
            the CPU (an optimizer's step counts, a generator's state).
        progress: called with (bytes sent, bytes to send) after every buffer.
        keep: whether this rank wants the tree; one that has it already only takes part.

    Returns:
        The tree (on the root, the same one; None if it was not wanted) and the number of bytes
        sent. Raises HorovodInternalError when a peer is lost on the way; nothing that the
        receivers held has been touched then.
    """
    sending = hvd.rank() == root
    header = b""
    tensors: list[Tensor] = []
    if sending:
        skeleton, tensors = flatten(tree)
        described = [
            {**describe(tensor), "on_cpu": tensor.device.type == "cpu"} for tensor in tensors
        ]
        header = json.dumps({"skeleton": skeleton, "tensors": described}).encode()
    length = torch.tensor([len(header)], dtype=torch.int64, device="cpu")
    hvd.broadcast_(length, root, name="state.length")
    text = torch.zeros(int(length), dtype=torch.uint8, device="cpu")
    if sending:
        text = torch.frombuffer(bytearray(header), dtype=torch.uint8)
    hvd.broadcast_(text, root, name="state.header")
    cpu = torch.device("cpu")
    if not sending:
        data = json.loads(text.numpy().tobytes())
        skeleton, described = data["skeleton"], data["tensors"]
        if keep:
            tensors = [make_like(one, cpu if one["on_cpu"] else device) for one in described]
    sizes = [size_of(one) for one in described]
    flat = [as_bytes(tensor.contiguous()) for tensor in tensors]
    sent = 0
    for on_cpu in (True, False):
        there = {i: size for i, size in enumerate(sizes) if described[i]["on_cpu"] is on_cpu}
        lane = Lane(flat, root, cpu if on_cpu else device)
        for group in _groups(there):
            sent += lane.send(group)
            progress(sent, sum(sizes))
        while lane.busy:
            sent += lane.finish()
            progress(sent, sum(sizes))
    if sending:
        return tree, sent
    return (unflatten(skeleton, tensors) if keep else None), sent


def _groups(sizes: Mapping[int, int]) -> Iterator[list[Piece]]:
    """The bytes of all tensors, by their sizes: large pieces alone, small ones up to CHUNK."""
    small: list[Piece] = []
    room = 0
    for tensor, size in sizes.items():
        for start in range(0, size, CHUNK):
            piece = Piece(tensor, start, min(start + CHUNK, size))
            if piece.size >= ALONE:
                yield [piece]
                continue
            if small and piece.room > room:
                yield small
                small = []
            if not small:
                room = CHUNK
            small.append(piece)
            room -= piece.room
    if small:
        yield small


class Lane:
    """Sends one group of pieces after another; several are under way.

    What is copied goes through buffers that are used again: memory that is new costs more than to
    send what it holds, every page of it is a fault. A rank that does not want the tensors has
    all of them written to one place.

    Args:
        flat: the tensors' bytes; none on a rank that does not want them.
        root: the rank that sends.
        device: where the tensors are.
    """

    def __init__(self, flat: list[Tensor], root: int, device: torch.device) -> None:
        self._flat = flat
        self._root = root
        self._sending = hvd.rank() == root
        self._device = device
        self._free: list[Tensor] = []
        self._under_way: deque[tuple[int, Tensor, list[Piece]]] = deque()
        self._count = 0

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._under_way)

    def send(self, group: list[Piece]) -> int:
        """Begins to send a group. Returns how many bytes have arrived meanwhile."""
        alone = len(group) == 1
        room = group[0].size if alone else sum(piece.room for piece in group)
        if alone and self._flat:  # it needs no copy
            buffer = self._bytes_of(group[0])
        else:
            buffer = self._take(room)
            if self._sending:
                for piece, place in _places(group, buffer):
                    place.copy_(self._bytes_of(piece))
        name = f"state.{self._device.type}.{self._count}"
        self._count += 1
        handle = hvd.broadcast_async_(buffer[:room], self._root, name=name)
        self._under_way.append((handle, buffer, group))
        return self.finish() if len(self._under_way) >= UNDER_WAY else 0

    def finish(self) -> int:
        """Waits for the oldest group. Returns how many bytes it has."""
        handle, buffer, group = self._under_way.popleft()
        hvd.synchronize(handle)
        if len(group) > 1 and self._flat:
            if not self._sending:
                for piece, place in _places(group, buffer):
                    self._bytes_of(piece).copy_(place)
            self._free.append(buffer)
        return sum(piece.size for piece in group)

    def _bytes_of(self, piece: Piece) -> Tensor:
        return self._flat[piece.tensor][piece.start : piece.stop]

    def _take(self, room: int) -> Tensor:
        """A buffer that is free, or a new one; for what is not wanted always the same."""
        buffer = self._free.pop() if self._free else None
        if buffer is None or buffer.numel() < room:
            buffer = torch.empty(room, dtype=torch.uint8, device=self._device)
        if not self._flat:
            self._free.append(buffer)
        return buffer


def _places(group: list[Piece], buffer: Tensor) -> Iterator[tuple[Piece, Tensor]]:
    start = 0
    for piece in group:
        yield piece, buffer[start : start + piece.size]
        start += piece.room


class WorldExchange:
    """What loading a checkpoint needs of the world (see checkpoints.restore), through Horovod.

    Every method is a collective and raises HorovodInternalError when a peer is lost.

    Args:
        collective: to be held while this thread waits for its peers.
    """

    def __init__(self, collective: Callable[[], AbstractContextManager[None]]) -> None:
        self._collective = collective
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()

    def broadcast_bytes(self, data: bytes, root: int) -> bytes:
        """Returns the root's ``data`` on every rank."""
        length = torch.tensor([len(data)], dtype=torch.int64, device="cpu")
        with self._collective():
            hvd.broadcast_(length, root, name="checkpoint.length")
        text = torch.zeros(int(length), dtype=torch.uint8, device="cpu")
        if self.rank == root:
            text = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self.broadcast(text, root)
        return text.numpy().tobytes()

    def broadcast(self, tensor: Tensor, root: int) -> None:
        """Fills every rank's uint8 ``tensor``, of the same length, with the root's."""
        if tensor.numel():
            with self._collective():
                hvd.broadcast_(tensor, root, name="checkpoint.bytes")

    def worst(self, code: int) -> int:
        """Returns the highest of all ranks' codes."""
        with self._collective():
            told = hvd.allgather(torch.tensor([code], device="cpu"), name="checkpoint.code")
        return int(told.max())
