"""What goes from a loader to the process that trains, and how it arrives."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.loaders.parcel import Parcel, receive, send

DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    made = torch.randint(0, 2, shape).to(draw(st.sampled_from(DTYPES)))
    return made.t() if made.ndim == 2 and draw(st.booleans()) else made


PLAIN = st.none() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False)
TREES = st.recursive(
    PLAIN | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@pytest.fixture
def lines() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        both = type(one) is type(other) and len(one) == len(other)
        return both and all(map(same, one, other))
    return bool(one == other)


@given(TREES)
@settings(deadline=None)
def test_anything_arrives_as_it_was(value: Any) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        send(one, value)
        assert same(value, receive(other))


def test_other_kinds_of_tensors_and_arrays_arrive_too(
    lines: tuple[socket.socket, socket.socket],
) -> None:
    trained = nn.Parameter(torch.ones(3))
    sparse = torch.eye(3).to_sparse()
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    conjugate = torch.tensor([1 + 2j]).conj()
    send(lines[0], (trained, sparse, array, conjugate))
    found = receive(lines[1])
    assert isinstance(found[0], nn.Parameter) and torch.equal(found[0], trained)
    assert torch.equal(found[1].to_dense(), torch.eye(3))
    assert found[2].dtype == np.int16 and (found[2] == array).all()
    assert torch.equal(found[3], conjugate)


def test_what_has_arrived_can_be_written_to_and_outlives_the_sender(
    lines: tuple[socket.socket, socket.socket],
) -> None:
    value = torch.arange(100_000)
    send(lines[0], value)
    lines[0].close()
    found = receive(lines[1])
    found += 1
    assert int(found.sum()) == int(value.sum()) + len(value)
    with pytest.raises(EOFError):
        receive(lines[1])


def test_what_was_sent_arrives_though_its_sender_has_left_something_unread(
    lines: tuple[socket.socket, socket.socket],
) -> None:
    send(lines[1], "unread")
    send(lines[0], "last words")
    lines[0].close()
    assert receive(lines[1]) == "last words"
    with pytest.raises(EOFError):
        receive(lines[1])


def test_no_descriptor_is_left_of_it(lines: tuple[socket.socket, socket.socket]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        send(lines[0], [torch.ones(10), "text"])
        receive(lines[1])
    parcel = Parcel(torch.ones(3))
    parcel.send(lines[0])
    parcel.send(lines[0])
    parcel.close()
    assert all(torch.equal(receive(lines[1]), torch.ones(3)) for _ in range(2))
    with pytest.raises(TypeError, match="cannot pickle"):
        Parcel(Path("/proc/self/stat").open())  # noqa: SIM115
    assert len(os.listdir("/proc/self/fd")) <= before + 1
