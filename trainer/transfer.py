"""State from one worker to all others: one flat buffer after another, metadata once.

Horovod's ``broadcast_object`` needs seconds for megabytes; one flat tensor needs
hundredths of that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor

from trainer.tree import as_bytes, describe, flatten, make_like, unflatten

CHUNK = 64 * 2**20  # bytes of the largest buffer; bounds the memory a transfer needs
_ALIGN = 16  # bytes; copies between aligned places are the fast ones


def broadcast_tree(
    tree: Any | None,
    root: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda sent, total: None,
) -> tuple[Any, int]:
    """Sends the root's tree to all ranks. A collective: every rank must call it.

    Args:
        tree: the state on the root; ignored elsewhere.
        root: the rank that sends.
        device: where the receivers want their tensors, but for those that the root has on
            the CPU (an optimizer's step counts, a generator's state).
        progress: called with (bytes sent, bytes to send) after every buffer.

    Returns:
        The tree (on the root, the same one) and the number of bytes sent. Raises
        HorovodInternalError when a peer is lost on the way; nothing that the receivers
        held has been touched then.
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
    length = torch.tensor([len(header)], dtype=torch.int64)
    hvd.broadcast_(length, root, name="state.length")
    text = torch.zeros(int(length), dtype=torch.uint8)
    if sending:
        text = torch.frombuffer(bytearray(header), dtype=torch.uint8)
    hvd.broadcast_(text, root, name="state.header")
    if not sending:
        data = json.loads(text.numpy().tobytes())
        skeleton = data["skeleton"]
        cpu = torch.device("cpu")
        tensors = [make_like(one, cpu if one["on_cpu"] else device) for one in data["tensors"]]
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    sent = 0
    for index, batch in enumerate(_batches(tensors)):
        _broadcast_batch(batch, root, sending, index)
        sent += sum(piece.numel() for piece in batch)
        progress(sent, total)
    return (tree if sending else unflatten(skeleton, tensors)), sent


def _batches(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The bytes of all tensors, in groups of at most CHUNK that lie on one device."""
    batch: list[Tensor] = []
    room = 0
    for tensor in sorted(tensors, key=lambda one: one.device.type):
        for piece in as_bytes(tensor.contiguous()).split(CHUNK):
            if batch and (_padded(piece) > room or piece.device != batch[0].device):
                yield batch
                batch = []
            if not batch:
                room = CHUNK
            batch.append(piece)
            room -= _padded(piece)
    if batch:
        yield batch


def _broadcast_batch(batch: list[Tensor], root: int, sending: bool, index: int) -> None:
    """Sends one group of pieces; a piece that fills it alone needs no copy."""
    name = f"state.{index}"
    if len(batch) == 1:
        if batch[0].numel():
            hvd.broadcast_(batch[0], root, name=name)
        return
    sizes = [_padded(piece) for piece in batch]
    flat = torch.empty(sum(sizes), dtype=torch.uint8, device=batch[0].device)
    places = [place[: piece.numel()] for place, piece in zip(flat.split(sizes), batch, strict=True)]
    if sending:
        for piece, place in zip(batch, places, strict=True):
            place.copy_(piece)
    if flat.numel():
        hvd.broadcast_(flat, root, name=name)
    if not sending:
        for piece, place in zip(batch, places, strict=True):
            piece.copy_(place)


def _padded(piece: Tensor) -> int:
    return -(-int(piece.numel()) // _ALIGN) * _ALIGN


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
        length = torch.tensor([len(data)], dtype=torch.int64)
        with self._collective():
            hvd.broadcast_(length, root, name="checkpoint.length")
        text = torch.zeros(int(length), dtype=torch.uint8)
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
            told = hvd.allgather(torch.tensor([code]), name="checkpoint.code")
        return int(told.max())
