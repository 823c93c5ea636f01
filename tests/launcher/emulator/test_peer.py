"""Whose the other end of a connection is, as the kernel knows it."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from launcher.emulator.peer import Address, Asking, by_netlink, find, owner

Connection = tuple[socket.socket, socket.socket]


@pytest.fixture
def connection() -> Iterator[Connection]:
    """The two ends of a connection within this machine: the near one, and the far one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
        with far, near:
            yield near, far


def of(near: socket.socket) -> int | None:
    return owner(near.getsockname(), near.getpeername())


def no_netlink(near: Address, far: Address) -> tuple[int, int]:
    raise PermissionError


@pytest.mark.parametrize("ask", [by_netlink, no_netlink])
def test_a_connection_has_an_owner_until_it_is_closed(ask: Asking, connection: Connection) -> None:
    near, far = connection
    ends = near.getsockname(), near.getpeername()
    assert owner(*ends, ask) == os.geteuid()
    far.shutdown(socket.SHUT_WR)  # it still waits for an answer
    assert owner(*ends, ask) == os.geteuid()
    far.close()  # the kernel says that this is root's now
    assert owner(*ends, ask) is None


def test_there_is_no_owner_of_no_connection(connection: Connection) -> None:
    near, far = connection
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends = near.getsockname(), near.getpeername()
    far.close()
    assert owner(*ends) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_connection_is_that_users(connection: Connection) -> None:
    near, _ = connection
    reading, writing = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = os.fork()
        if child == 0:  # pragma: no cover
            os.setuid(65534)
            with socket.create_connection(server.getsockname()):
                os.close(writing)
                os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        with server.accept()[0] as theirs:
            assert of(theirs) == 65534
        os.close(writing)
        os.waitpid(child, 0)
    assert of(near) == 0


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0
   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 22 1 0
   2: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 33 1 0
"""


def test_the_table_is_read_from_the_far_end() -> None:
    assert find(TABLE, ("127.0.0.1", 8080), ("127.0.0.1", 50000)) == (1001, 33)
    assert find(TABLE, ("127.0.0.1", 50000), ("127.0.0.1", 8080)) == (1000, 22)
    assert find(TABLE, ("127.0.0.1", 8080), ("127.0.0.1", 50001)) is None
    assert find("", ("127.0.0.1", 8080), ("127.0.0.1", 50000)) is None
