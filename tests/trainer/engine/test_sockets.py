"""Breaking connections from inside: what waits on them returns, and nothing else is touched."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest

from trainer.engine.sockets import break_connections, open_sockets

LOOPBACK = {"127.0.0.1"}


class Net:
    """Sockets of this test, closed after it; older ones are kept out of it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.keep = open_sockets()

    def open(self, *args: Any) -> socket.socket:
        return self._stack.enter_context(socket.socket(*args))

    def listener(self, host: str = "127.0.0.1") -> socket.socket:
        listener = self.open()
        listener.bind((host, 0))
        listener.listen()
        return listener

    def pair(self, host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
        """Two ends of a connection; the first has ``host`` as its peer."""
        listener = self.listener(host)
        near = self.open()
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        self._stack.enter_context(far)
        listener.close()
        return near, far


@pytest.fixture
def net() -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(stack)


def in_thread(work: Any) -> Future[Any]:
    """Starts ``work`` in a thread. Returns what becomes of it."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def broken_until_done(net: Net, future: Future[Any]) -> Any:
    """Breaks again and again, as a worker does, until the waiting call has returned."""
    while not future.done():
        break_connections(net.keep, LOOPBACK)
    error = future.exception()
    return future.result() if error is None else error


def is_alive(one: socket.socket, other: socket.socket) -> bool:
    one.sendall(b"ping")
    return other.recv(4) == b"ping"


def test_a_blocked_recv_returns(net: Net) -> None:
    near, _ = net.pair()
    assert broken_until_done(net, in_thread(lambda: near.recv(1))) == b""


def test_a_blocked_send_returns(net: Net) -> None:
    near, far = net.pair()
    data = b"x" * 2**26  # more than any buffer takes
    assert isinstance(broken_until_done(net, in_thread(lambda: near.sendall(data))), OSError)
    assert far.fileno() >= 0


def test_a_blocked_accept_returns(net: Net) -> None:
    listener = net.listener()
    assert isinstance(broken_until_done(net, in_thread(listener.accept)), OSError)


def test_a_blocked_connect_returns(net: Net) -> None:
    full = net.open()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    for _ in range(2):  # nobody accepts: further connections get no answer
        filler = net.open()
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    net.keep = open_sockets()
    waiting = net.open()
    address = full.getsockname()
    assert isinstance(broken_until_done(net, in_thread(lambda: waiting.connect(address))), OSError)


def test_the_peer_sees_the_end(net: Net) -> None:
    near, far = net.pair()
    net.keep |= {inode for inode in open_sockets() if inode == _inode(far)}
    assert break_connections(net.keep, LOOPBACK) == 1
    assert far.recv(1) == b""
    assert near.recv(1) == b""


def test_it_counts_what_it_broke(net: Net) -> None:
    net.pair()
    net.listener()
    assert break_connections(net.keep, LOOPBACK) == 3


def test_older_sockets_are_left_alone(net: Net) -> None:
    near, far = net.pair()
    listener = net.listener()
    net.keep = open_sockets()
    assert break_connections(net.keep, LOOPBACK) == 0
    assert is_alive(near, far)
    net.open().connect(listener.getsockname())


def test_where_the_program_itself_listens_it_goes_on(net: Net) -> None:
    ours, programs = net.listener(), net.listener()
    assert break_connections(net.keep, LOOPBACK, listening={_inode(ours)}) == 1
    net.open().connect(programs.getsockname())
    with pytest.raises(ConnectionRefusedError):
        net.open().connect(ours.getsockname())


def test_connections_to_others_than_peers_are_left_alone(net: Net) -> None:
    near, far = net.pair("127.0.0.2")
    # near has a foreign peer; far's is near, at 127.0.0.1.
    net.keep |= {_inode(far)}
    assert break_connections(net.keep, LOOPBACK) == 0
    assert is_alive(near, far)
    assert break_connections(net.keep, {"127.0.0.2"}) == 1
    assert far.recv(1) == b""


def test_the_rendezvous_server_is_left_alone(net: Net) -> None:
    near, far = net.pair()
    net.keep |= {_inode(far)}
    port = near.getpeername()[1]
    assert break_connections(net.keep, LOOPBACK, spare_port=port) == 0
    assert is_alive(near, far)


def test_what_is_not_tcp_is_left_alone(net: Net) -> None:
    one, other = socket.socketpair()
    datagram = net.open(socket.AF_INET, socket.SOCK_DGRAM)
    datagram.bind(("127.0.0.1", 0))
    with one, other:
        assert break_connections(net.keep, LOOPBACK) == 0
        assert is_alive(one, other)
        sender = net.open(socket.AF_INET, socket.SOCK_DGRAM)
        sender.sendto(b"ping", datagram.getsockname())
        assert datagram.recv(4) == b"ping"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_a_peer_is_known_in_its_ipv6_clothes_too(net: Net) -> None:
    listener = net.open(socket.AF_INET6, socket.SOCK_STREAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", 0))
    listener.listen()
    near = net.open()
    near.connect(("127.0.0.1", listener.getsockname()[1]))
    far, _ = listener.accept()
    with far:
        net.keep |= {_inode(near), _inode(listener)}
        assert break_connections(net.keep, LOOPBACK) == 1
        assert near.recv(1) == b""


def test_pipes_and_children_go_on(net: Net) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert break_connections(net.keep, LOOPBACK) == 0
        assert cat.communicate(b"ping")[0] == b"ping"


def test_breaking_twice_does_no_harm(net: Net) -> None:
    near, _ = net.pair()
    break_connections(net.keep, LOOPBACK)
    break_connections(net.keep, LOOPBACK)
    assert near.recv(1) == b""


def _inode(sock: socket.socket) -> int:
    import os

    return os.fstat(sock.fileno()).st_ino
