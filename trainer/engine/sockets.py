"""Breaking a worker's connections to its peers, from inside the process.

``shutdown(2)`` on a TCP socket makes every read, write, accept or connect that is
waiting on it return at once, in whatever thread. That turns gloo's 30 s wait for a
VM that vanished into an immediate HorovodInternalError, without privileges. NCCL's
bootstrap and socket transports are woken in the same way.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager


def open_sockets() -> frozenset[int]:
    """The inodes of all sockets that this process has open."""
    return frozenset(inode for _, inode in _sockets())


def break_connections(
    keep: Collection[int],
    peers: Collection[str],
    spare_port: int | None = None,
    listening: Collection[int] | None = None,
) -> int:
    """Shuts down this process's TCP sockets that belong to a generation.

    Args:
        keep: inodes of sockets that are older than the generation.
        peers: addresses of the members; established connections elsewhere (a store,
            say) are left alone. Connecting sockets have no peer yet and are always shut down.
        spare_port: connections to this local port are left alone (the rendezvous server).
        listening: inodes of the listening sockets that are the generation's; None for all. Others
            are the program's own, whose library may not survive it: torch's gloo aborts.

    Returns:
        How many sockets were shut down.
    """
    broken = 0
    for fd, inode in _sockets():
        if inode in keep:
            continue
        with _borrowed(fd, inode) as sock:
            if sock is None or not _is_ip(sock):
                continue
            accepts = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            ours = listening is None or inode in listening
            if ours if accepts else _is_peer(sock, peers, spare_port):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                    broken += 1
                except OSError:
                    continue  # it was closed meanwhile
    return broken


def _is_ip(sock: socket.socket) -> bool:
    kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    return sock.family in (socket.AF_INET, socket.AF_INET6) and kind == socket.SOCK_STREAM


def _is_peer(sock: socket.socket, peers: Collection[str], spare_port: int | None) -> bool:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return True  # still connecting
    return host.removeprefix("::ffff:") in peers and port != spare_port


def _sockets() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            status = os.fstat(fd)
        except OSError:
            continue
        if stat.S_ISSOCK(status.st_mode):
            yield fd, status.st_ino


@contextmanager
def _borrowed(fd: int, inode: int) -> Iterator[socket.socket | None]:
    """A second handle on the socket, or None if the descriptor now means something else."""
    try:
        copy = os.dup(fd)
    except OSError:
        yield None
        return
    if os.fstat(copy).st_ino != inode:
        os.close(copy)
        yield None
        return
    with socket.socket(fileno=copy) as sock:
        yield sock
