"""Rows become columns; addresses come back as they were."""

from __future__ import annotations

import ipaddress
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.ranks import gloo_address
from trainer.protocol.mesh import Mesh, Meshes, lengthen, shorten
from trainer.protocol.world import MemberId, arrange

V4 = st.builds(gloo_address, st.ip_addresses(v=4), st.integers(1, 65535))
V6 = st.builds(gloo_address, st.ip_addresses(v=6), st.integers(1, 65535))
ADDRESSES = st.one_of(st.lists(V4, min_size=1), st.lists(V6, min_size=1)).map(b"".join)


def rows_of(size: int) -> list[bytes]:
    """The rows of a mesh in which every address tells who made it, and for whom."""
    return [
        b"".join(
            shorten(gloo_address(ipaddress.ip_address(f"10.0.{rank}.{peer}"), 1000 + rank))
            for peer in range(size)
            if peer != rank
        )
        for rank in range(size)
    ]


@given(st.data())
def test_each_gets_what_every_other_made_for_it(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 9))
    rows = rows_of(size)
    mesh = Mesh(size)
    for rank in data.draw(st.permutations(range(size))):
        assert not mesh.complete
        mesh.add(rank, rows[rank])
    assert mesh.complete
    for rank, column in enumerate(mesh.columns()):
        made_for_it = [
            shorten(gloo_address(ipaddress.ip_address(f"10.0.{peer}.{rank}"), 1000 + peer))
            for peer in range(size)
            if peer != rank
        ]
        assert column == b"".join(made_for_it)


A, B = MemberId("workerpool0-0", "a1"), MemberId("workerpool1-0", "b1")
WORLD = arrange(1, [(A, 2), (B, 1)])


def test_each_member_gets_the_columns_of_its_own_ranks_once_all_rows_are_there() -> None:
    meshes, rows = Meshes(), rows_of(3)
    for member, rank in ((A, 0), (B, 2), (A, 0)):
        assert meshes.add(WORLD, "global", 3, member, rank, rows[rank]) == {}
    mesh = Mesh(3)
    for rank, row in enumerate(rows):
        mesh.add(rank, row)
    columns = mesh.columns()
    complete = meshes.add(WORLD, "global", 3, A, 1, rows[1])
    assert complete == {A: {0: columns[0], 1: columns[1]}, B: {2: columns[2]}}
    assert meshes.add(WORLD, "global", 3, A, 1, rows[1]) == {}, (
        "a row that comes late begins a mesh anew"
    )


def test_meshes_of_one_world_are_told_apart_by_their_scopes() -> None:
    meshes, rows = Meshes(), rows_of(2)
    assert meshes.add(WORLD, "global", 2, A, 0, rows[0]) == {}
    assert meshes.add(WORLD, "cross_0", 2, B, 1, rows[1]) == {}
    assert meshes.add(WORLD, "cross_0", 2, A, 0, rows[0]).keys() == {A, B}


def test_a_new_world_forgets_the_rows_of_the_one_before() -> None:
    meshes, rows = Meshes(), rows_of(2)
    meshes.add(WORLD, "global", 2, A, 0, rows[0])
    later = arrange(2, [(A, 1), (B, 1)])
    assert meshes.add(later, "global", 2, B, 1, rows[1]) == {}
    assert meshes.add(later, "global", 2, A, 0, rows[0]).keys() == {A, B}


def test_no_mesh_is_larger_than_its_world() -> None:
    with pytest.raises(ValueError, match="a mesh of 4 in a world of 3"):
        Meshes().add(WORLD, "global", 4, A, 0, rows_of(4)[0])


@given(ADDRESSES)
def test_what_means_nothing_does_not_travel_and_comes_back(addresses: bytes) -> None:
    short = shorten(addresses)
    assert len(short) in (len(addresses) // 136 * 8, len(addresses) // 136 * 28)
    assert lengthen(short) == addresses


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_come_back(data: bytes) -> None:
    for there, back in ((shorten, lengthen), (lengthen, shorten)):
        try:
            done = there(data)
        except ValueError:
            continue
        assert back(done) == data


@pytest.mark.parametrize("at", [8, 15, 100, 127, 128, 135])
def test_an_address_that_says_more_than_expected_is_refused(at: int) -> None:
    address = bytearray(gloo_address(ipaddress.ip_address("10.0.0.1"), 1000))
    address[at] ^= 1
    with pytest.raises(ValueError, match="hold more than was expected"):
        shorten(bytes(address))


def test_an_address_of_another_family_is_refused() -> None:
    unix = int(socket.AF_UNIX).to_bytes(2, sys.byteorder) + bytes(134)
    for function in (shorten, lengthen):
        with pytest.raises(ValueError, match="no addresses of family 1"):
            function(unix)


@pytest.mark.parametrize("size", [-1, 0, 1])
def test_there_is_no_mesh_of_one(size: int) -> None:
    with pytest.raises(ValueError, match="a mesh of"):
        Mesh(size)


def test_what_is_no_row_is_refused_and_harms_nothing() -> None:
    rows = rows_of(3)
    mesh = Mesh(3)
    mesh.add(0, rows[0])
    mesh.add(0, rows[0])  # told twice
    six = shorten(gloo_address(ipaddress.ip_address("::1"), 1))
    for rank, row in [
        (-1, rows[0]),
        (3, rows[0]),
        (1, b""),
        (1, rows[1][:-1]),
        (1, rows[1] + rows[1]),
        (1, bytes(2**20)),
        (1, six * 2),  # the others have IPv4
        (0, rows[1]),  # not what it said before
    ]:
        with pytest.raises(ValueError):
            mesh.add(rank, row)
    mesh.add(1, rows[1])
    mesh.add(2, rows[2])
    assert mesh.complete
