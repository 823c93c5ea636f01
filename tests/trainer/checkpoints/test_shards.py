"""Cutting tensors into shards, and putting them together again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from trainer.checkpoints.shards import Assembly, Shard, Slot, as_memory, cut, parts_for, slots_of
from trainer.checkpoints.tree import as_bytes, flatten, names_in

DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.complex64,
    torch.int64,
    torch.uint8,
    torch.bool,
]


@st.composite
def states(draw: st.DrawFn) -> list[torch.Tensor]:
    tensors: list[torch.Tensor] = []
    for dtype, shape in draw(
        st.lists(
            st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3).map(tuple)),
            max_size=8,
        )
    ):
        whole = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(len(tensors)))
        tensors.append(whole.to(dtype))
    return tensors


def files_of(tensors: list[torch.Tensor], parts: int) -> tuple[list[Slot], list[bytes]]:
    slots = slots_of([f"t{number}" for number in range(len(tensors))], tensors)
    files = []
    for pieces in cut(slots, parts):
        shard = Shard(slots, pieces)
        file = torch.empty(shard.size, dtype=torch.uint8)
        shard.fill(file, tensors)
        files.append(bytes(as_memory(file)))
    return slots, files


def put_together(slots: list[Slot], files: list[bytes]) -> list[torch.Tensor]:
    assembly = Assembly(slots, torch.device("cpu"))
    for file in files:
        assembly.add(file)
    return assembly.finish()


@given(states(), st.integers(1, 9))
def test_what_was_cut_comes_together(tensors: list[torch.Tensor], parts: int) -> None:
    slots, files = files_of(tensors, parts)
    for before, after in zip(tensors, put_together(slots, files), strict=True):
        assert before.dtype == after.dtype and before.shape == after.shape
        assert torch.equal(
            before.reshape(-1).view(torch.uint8), after.reshape(-1).view(torch.uint8)
        )


@given(states(), st.integers(1, 9))
def test_shards_are_balanced(tensors: list[torch.Tensor], parts: int) -> None:
    slots = slots_of([f"t{number}" for number in range(len(tensors))], tensors)
    sizes = [
        sum((one.stop - one.start) * slots[one.tensor].dtype.itemsize for one in pieces)
        for pieces in cut(slots, parts)
    ]
    assert sum(sizes) == sum(slot.bytes for slot in slots)
    assert max(sizes) - min(sizes) <= 2 * 8, "more than an element at either end"


@given(states(), st.integers(1, 5))
def test_any_reader_of_safetensors_reads_a_shard(tensors: list[torch.Tensor], parts: int) -> None:
    _, files = files_of(tensors, parts)
    for file in files:
        for entry, values in load_tensors(file).items():
            name, _, bounds = entry.partition("[")
            start, stop = (int(one) for one in bounds.rstrip("]").split(":"))
            flat = tensors[int(name[1:])].reshape(-1)[start:stop]
            assert torch.equal(as_bytes(values), as_bytes(flat))


def test_a_large_share_is_several_shards() -> None:
    slots = [Slot("a", torch.float32, (1000,))]
    assert parts_for(slots, 1, part=4000) == 1
    assert parts_for(slots, 1, part=3999) == 2
    assert parts_for(slots, 3, part=1000) == 6
    assert parts_for([], 4, part=1000) == 4


def test_strided_tensors_are_copied_in_their_own_order() -> None:
    tensors = [torch.arange(12.0).reshape(3, 4).t(), torch.arange(3.0).expand(2, 3)]
    slots, files = files_of(tensors, 2)
    for before, after in zip(tensors, put_together(slots, files), strict=True):
        assert torch.equal(before, after)


def test_a_type_that_cannot_be_held_is_named() -> None:
    with pytest.raises(TypeError, match=r"model\.q is of torch\.complex128"):
        slots_of(["model.q"], [torch.zeros(1, dtype=torch.complex128)])


FOREIGN: list[Any] = [
    {"x[0:3]": torch.zeros(3)},
    {"t0": torch.zeros(3)},
    {"t0[0:2]": torch.zeros(3)},
    {"t0[0:3]": torch.zeros(3, dtype=torch.int32)},
    {"t0[0:9]": torch.zeros(9)},
    {"t0[0:3]": torch.zeros(3, 1)},
    {"t0[2:0]": torch.zeros(0)},
]


@pytest.mark.parametrize("entries", FOREIGN, ids=str)
def test_what_does_not_belong_is_refused(entries: dict[str, torch.Tensor]) -> None:
    assembly = Assembly(slots_of(["t0"], [torch.zeros(4)]), torch.device("cpu"))
    with pytest.raises(ValueError, match="does not"):
        assembly.add(save_tensors(entries))


@pytest.mark.parametrize("data", [b"", b"no safetensors", b"\xff" * 64])
def test_what_is_no_shard_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a safetensors file"):
        Assembly([], torch.device("cpu")).add(data)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_shard_is_noticed(missing: int) -> None:
    slots, files = files_of([torch.arange(9.0)], 3)
    del files[missing]
    with pytest.raises(ValueError, match="not all of t0"):
        put_together(slots, files)


def test_a_shard_that_came_twice_is_noticed() -> None:
    slots, files = files_of([torch.arange(9.0)], 3)
    with pytest.raises(ValueError, match="some of it twice"):
        put_together(slots, [*files, files[1]])


def test_names_are_the_paths_to_the_tensors() -> None:
    tree = {
        "model": {"0.weight": torch.zeros(1), "bias": torch.zeros(2)},
        "optimizer": {"state": {0: {"m": torch.zeros(3)}, 1: {"m": torch.zeros(4)}}},
        "more": [torch.zeros(5), (torch.zeros(6), 7)],
    }
    skeleton, tensors = flatten(tree)
    named = dict(zip(names_in(skeleton), tensors, strict=True))
    assert {name: tensor.numel() for name, tensor in named.items()} == {
        "model.0.weight": 1,
        "model.bias": 2,
        "optimizer.state.0.m": 3,
        "optimizer.state.1.m": 4,
        "more.0": 5,
        "more.1.0": 6,
    }
