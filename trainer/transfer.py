"""State from one worker to all others: one flat buffer after another, metadata once.

Horovod's ``broadcast_object`` needs seconds for megabytes; one flat tensor needs
hundredths of that.
"""

from __future__ import annotations

import json
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor

from trainer.tree import as_bytes, describe, flatten, make_like, unflatten

CHUNK = 64 * 2**20  # bytes of the largest buffer; bounds the memory a transfer needs
_ALIGN = 16  # bytes; every dtype's size divides it


def broadcast_tree(tree: Any | None, root: int, device: torch.device) -> tuple[Any, int]:
    """Sends the root's tree to all ranks. A collective: every rank must call it.

    Args:
        tree: the state on the root; ignored elsewhere.
        root: the rank that sends.
        device: where the receivers want their tensors.

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
        described = [describe(tensor) for tensor in tensors]
        header = json.dumps({"skeleton": skeleton, "tensors": described}).encode()
    length = torch.tensor([len(header)], dtype=torch.int64)
    hvd.broadcast_(length, root, name="state.length")
    text = torch.zeros(int(length), dtype=torch.uint8)
    if sending:
        text = torch.frombuffer(bytearray(header), dtype=torch.uint8)
    hvd.broadcast_(text, root, name="state.header")
    if not sending:
        data = json.loads(bytes(text.tolist()))
        skeleton = data["skeleton"]
        tensors = [make_like(one, device) for one in data["tensors"]]
    total = 0
    for index, batch in enumerate(_batches(tensors)):
        total += _broadcast_batch(batch, root, sending, index, device)
    return (tree if sending else unflatten(skeleton, tensors)), total


def _batches(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Groups tensors so that a group is at most CHUNK, or one larger tensor."""
    batches: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        size = _padded(tensor)
        if not batches or size > room:
            batches.append([])
            room = CHUNK
        batches[-1].append(tensor)
        room -= size
    return batches


def _broadcast_batch(
    batch: list[Tensor], root: int, sending: bool, index: int, device: torch.device
) -> int:
    flat = torch.empty(sum(_padded(tensor) for tensor in batch), dtype=torch.uint8, device=device)
    places = []
    offset = 0
    for tensor in batch:
        size = tensor.numel() * tensor.element_size()
        places.append(flat[offset : offset + size])
        offset += _padded(tensor)
    if sending:
        for tensor, place in zip(batch, places, strict=True):
            place.copy_(as_bytes(tensor.contiguous()))
    if flat.numel():
        hvd.broadcast_(flat, root, name=f"state.{index}")
    if not sending:
        for tensor, place in zip(batch, places, strict=True):
            as_bytes(tensor).copy_(place)
    return int(flat.numel())


def _padded(tensor: Tensor) -> int:
    size = int(tensor.numel()) * tensor.element_size()
    return -(-size // _ALIGN) * _ALIGN
