"""How a state's tensors are cut into shards: equal in bytes, whatever the tensors' sizes.

The tensors, one after another in the order of the state, are one long row of bytes. It is cut
into equal parts, through the middle of tensors where need be (between elements). Each part is
one safetensors file; an entry ``model.weight[100:200]`` holds those elements of a tensor,
flattened. Every rank finds the same cut by itself: it follows from the tensors' shapes.

Small tensors are not cut: rank 0 writes them, in a shard of their own. Among them are those
in which ranks may differ (running means, states of random generators), and half of one
rank's and half of another's would be nobody's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from trainer.checkpoints.shardfile import Part
from trainer.checkpoints.tree import make_like

_ALIGN = 64  # bytes; where a shard begins in a buffer, and its first tensor in a shard

# https://github.com/huggingface/safetensors#format
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ENTRY = re.compile(r"(.*)\[(\d+):(\d+)\]", re.DOTALL)


@dataclass(frozen=True)
class Slot:
    """A tensor of the state: its name, its type, its shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How large it is."""
        return self.elements * self.dtype.itemsize

    def to_json(self) -> dict[str, Any]:
        """``{"name", "dtype", "shape"}``."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"name": self.name, "dtype": dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Any) -> Slot:
        """The inverse; ValueError when it is not one."""
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"not a description of a tensor: {value!r}")
        like = make_like(value, torch.device("meta"))
        return cls(value["name"], like.dtype, tuple(like.shape))


@dataclass(frozen=True)
class Piece:
    """The elements ``start`` to before ``stop`` of one tensor, by its index in the state."""

    tensor: int
    start: int
    stop: int


def slots_of(names: Sequence[str], tensors: Sequence[Tensor]) -> list[Slot]:
    """The slots of named tensors. Raises TypeError for a type that safetensors does not have."""
    slots = []
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name} is of {tensor.dtype}, which a checkpoint cannot hold")
        slots.append(Slot(name, tensor.dtype, tuple(tensor.shape)))
    return slots


@dataclass(frozen=True)
class Sizes:
    """How a state is cut; all ranks that write a checkpoint must cut it alike.

    Attributes:
        part: bytes of the largest shard; what is read, checked and sent at a time.
        small: bytes; tensors below are all written by rank 0.
    """

    part: int = 64 * 2**20
    small: int = 64 * 2**10


SIZES = Sizes()


def plan(slots: Sequence[Slot], ranks: int, sizes: Sizes) -> list[tuple[int, list[Piece]]]:
    """What each of ``ranks`` ranks writes: (rank, pieces) of every shard, by its number."""
    small = [number for number, slot in enumerate(slots) if slot.bytes < sizes.small]
    large = [number for number, slot in enumerate(slots) if slot.bytes >= sizes.small]
    whole = [Piece(number, 0, slots[number].elements) for number in small if slots[number].bytes]
    shards = [(0, whole)] if whole else []
    wide = [slots[number] for number in large]
    parts = parts_for(wide, ranks, sizes.part) if wide else 0
    for part, pieces in enumerate(cut(wide, parts)):
        moved = [Piece(large[one.tensor], one.start, one.stop) for one in pieces]
        shards.append((part * ranks // parts, moved))
    return shards


def parts_for(slots: Sequence[Slot], ranks: int, part: int) -> int:
    """How many shards ``ranks`` ranks write: as many each, none larger than ``part`` bytes."""
    total = sum(slot.bytes for slot in slots)
    return ranks * max(1, math.ceil(total / ranks / part))


def cut(slots: Sequence[Slot], parts: int) -> list[list[Piece]]:
    """Cuts tensors into ``parts`` shards that differ by less than an element in size."""
    total = sum(slot.bytes for slot in slots)
    cuts: list[list[Piece]] = []
    index, offset = 0, 0  # the tensor that a shard begins in, and where that tensor begins
    for part in range(parts):
        low, high = total * part // parts, total * (part + 1) // parts
        pieces = []
        while index < len(slots) and offset < high:
            slot = slots[index]
            size = slot.dtype.itemsize
            start = max(0, -(-(low - offset) // size))
            stop = min(slot.elements, -(-(high - offset) // size))
            if start < stop:
                pieces.append(Piece(index, start, stop))
            if offset + slot.bytes > high:
                break
            offset += slot.bytes
            index += 1
        cuts.append(pieces)
    return cuts


class Shard:
    """One shard's file, laid out before its content is known.

    Args:
        slots: all tensors of the state.
        pieces: what this shard holds.

    Attributes:
        size: bytes of the whole file.
    """

    def __init__(self, slots: Sequence[Slot], pieces: Sequence[Piece]) -> None:
        header: dict[str, Any] = {}
        places = []
        end = 0
        # The widest elements first, so that each begins at a multiple of its own size.
        for piece in sorted(pieces, key=lambda one: -slots[one.tensor].dtype.itemsize):
            slot = slots[piece.tensor]
            count = piece.stop - piece.start
            begin, end = end, end + count * slot.dtype.itemsize
            places.append((piece, begin, end))
            header[f"{slot.name}[{piece.start}:{piece.stop}]"] = {
                "dtype": _DTYPES[slot.dtype],
                "shape": [count],
                "data_offsets": [begin, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % _ALIGN)
        self._head = len(text).to_bytes(8, "little") + text
        self._places = places
        self.size = len(self._head) + end

    def fill(self, file: Tensor, tensors: Sequence[Tensor]) -> None:
        """Writes the whole file: the header, and the pieces as they are now.

        Args:
            file: uint8, shape [size], in host memory; begins at a multiple of 64 bytes.
            tensors: all tensors of the state. Copies from a GPU are only begun.
        """
        data = len(self._head)
        file[:data].copy_(torch.frombuffer(bytearray(self._head), dtype=torch.uint8))
        for piece, begin, end in self._places:
            tensor = tensors[piece.tensor]
            source = tensor.reshape(-1)[piece.start : piece.stop]
            target = file[data + begin : data + end].view(tensor.dtype)
            target.copy_(source, non_blocking=True)


@dataclass(frozen=True)
class Layout:
    """What one of ``size`` ranks writes of a state.

    Attributes:
        slots: all tensors of the state.
        total: shards of all ranks.
        shards: this rank's.
        parts: where they are in the memory for all of them, each at a multiple of 64.
        bytes: of that memory.
    """

    rank: int
    size: int
    slots: list[Slot]
    total: int
    shards: list[Shard]
    parts: list[Part]
    bytes: int

    @classmethod
    def of(cls, slots: list[Slot], rank: int, size: int, sizes: Sizes) -> Layout:
        """The layout of rank ``rank``."""
        planned = plan(slots, size, sizes)
        shards, parts, end = [], [], 0
        for number, (writer, pieces) in enumerate(planned):
            if writer == rank:
                shard = Shard(slots, pieces)
                shards.append(shard)
                parts.append(Part(number, end, shard.size))
                end += -(-shard.size // _ALIGN) * _ALIGN
        return cls(rank, size, slots, len(planned), shards, parts, end)

    def copy(self, tensors: Sequence[Tensor], memory: Tensor) -> Callable[[], None]:
        """Copies this rank's shards to ``memory``. Returns a function that waits for them."""
        for shard, part in zip(self.shards, self.parts, strict=True):
            shard.fill(memory[part.offset : part.offset + part.size], tensors)
        if any(tensor.is_cuda for tensor in tensors):
            # The next step may overwrite what is still being copied: the stream orders them.
            event = torch.cuda.Event()
            event.record()
            return event.synchronize
        return lambda: None


class Assembly:
    """Tensors that are put together again from shards.

    Args:
        slots: the tensors of the state.
        device: where they are wanted.
    """

    def __init__(self, slots: Sequence[Slot], device: torch.device) -> None:
        self._index = {slot.name: number for number, slot in enumerate(slots)}
        if len(self._index) != len(slots):
            raise ValueError("two tensors have one name")
        self.tensors = [torch.empty(slot.shape, dtype=slot.dtype, device=device) for slot in slots]
        self._flat = [tensor.reshape(-1) for tensor in self.tensors]
        self._there: list[list[tuple[int, int]]] = [[] for _ in slots]

    def add(self, data: bytes) -> None:
        """Takes in one shard. Raises ValueError when it does not belong to these tensors."""
        try:
            entries = load_tensors(data)
        except Exception as error:  # the library's own kind
            raise ValueError(f"not a safetensors file: {error}") from None
        for entry, values in entries.items():
            found = _ENTRY.fullmatch(entry)
            if found is None or found[1] not in self._index:
                raise ValueError(f"{entry[:100]!r} does not belong to this checkpoint")
            index, start, stop = self._index[found[1]], int(found[2]), int(found[3])
            flat = self._flat[index]
            wanted = (stop - start,), flat.dtype
            if (values.shape, values.dtype) != wanted or stop > flat.numel():
                raise ValueError(f"{entry[:100]!r} does not fit its tensor")
            flat[start:stop].copy_(values)
            self._there[index].append((start, stop))

    def finish(self) -> list[Tensor]:
        """Returns the tensors. Raises ValueError unless every element came, once."""
        for name, index in self._index.items():
            end = 0
            for start, stop in sorted(self._there[index]):
                if start != end:
                    break
                end = stop
            if end != self._flat[index].numel():
                raise ValueError(f"not all of {name} is there, or some of it twice")
        return self.tensors


def as_memory(file: Tensor) -> memoryview:
    """The bytes of a uint8 tensor in host memory, without a copy."""
    return memoryview(file.numpy())  # type: ignore[arg-type]
