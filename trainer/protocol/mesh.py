"""The addresses by which the ranks of one gloo mesh find each other.

A mesh connects every rank with every other. Each listens for each of the others at an
address of its own, so it makes a **row** of ``size - 1`` addresses, and needs a
**column**: the one that each of the others made for it, both in order of rank. To turn
rows into columns is all that a rendezvous has to do.

Gloo's own form of an address is a ``sockaddr_storage`` and a sequence number that is
not used, 136 bytes; between machines only the bytes that mean something travel.
"""

from __future__ import annotations

import socket
import sys
from collections import defaultdict

from trainer.protocol.world import MemberId, World

_STORAGE = 128  # bytes of a sockaddr_storage
_UNUSED = (-1).to_bytes(8, sys.byteorder, signed=True)  # the sequence number
ADDRESS = _STORAGE + len(_UNUSED)  # bytes of an address in gloo's own form
# The bytes of a sockaddr that mean something: family, port and the IP address.
_SHORT: dict[int, int] = {socket.AF_INET: 8, socket.AF_INET6: 28}


class Mesh:
    """Collects the rows of all ranks.

    Args:
        size: the number of ranks.

    Raises ValueError for fewer than two: they have no addresses.
    """

    def __init__(self, size: int) -> None:
        if size < 2:
            raise ValueError(f"a mesh of {size}")
        self.size = size
        self._rows: dict[int, bytes] = {}

    def add(self, rank: int, row: bytes) -> None:
        """Takes in one rank's addresses; the same again changes nothing.

        Raises ValueError for what cannot be a row of this mesh.
        """
        if not 0 <= rank < self.size:
            raise ValueError(f"rank {rank} is not in a mesh of {self.size}")
        if len(row) % (self.size - 1) or len(row) // (self.size - 1) not in _SHORT.values():
            raise ValueError(f"{len(row)} bytes are not {self.size - 1} addresses")
        if len(row) != len(next(iter(self._rows.values()), row)):
            raise ValueError("the ranks of a mesh have addresses of different families")
        if self._rows.setdefault(rank, row) != row:
            raise ValueError(f"rank {rank} has other addresses than before")

    @property
    def complete(self) -> bool:
        """Whether all rows are there."""
        return len(self._rows) == self.size

    def columns(self) -> list[bytes]:
        """Each rank's column, in order of rank. The mesh must be complete."""
        width = len(self._rows[0]) // (self.size - 1)
        gap = bytes(width)  # where a rank's address for itself would be
        square = b"".join(
            row[: rank * width] + gap + row[rank * width :]
            for rank, row in sorted(self._rows.items())
        )
        words = memoryview(square).cast("I")  # both widths are whole ones, and it is faster
        each = width // 4
        columns = []
        for rank in range(self.size):
            column = bytearray(self.size * width)
            with memoryview(column).cast("I") as into:
                for word in range(each):
                    into[word::each] = words[rank * each + word :: self.size * each]
            del column[rank * width : (rank + 1) * width]
            columns.append(bytes(column))
        return columns


class Meshes:
    """The meshes of the newest world that are being built, each under its scope."""

    def __init__(self) -> None:
        self._generation = 0
        self._meshes: dict[str, Mesh] = {}
        # By scope, and in it by member: whose rows have come with which ranks.
        self._ranks: dict[str, dict[MemberId, list[int]]] = {}

    def add(
        self, world: World, scope: str, size: int, member: MemberId, rank: int, row: bytes
    ) -> dict[MemberId, dict[int, bytes]]:
        """Takes in one rank's row; what came for an older world is forgotten.

        Args:
            world: the newest.
            scope: which mesh of this world.
            size: of the mesh.
            member: who has the rank.
            rank: in the mesh.
            row: the rank's addresses.

        Returns nothing until all rows are there, and then, once, each member's columns by rank.
        Raises ValueError for what cannot be a row of this mesh.
        """
        if world.generation != self._generation:
            self._generation = world.generation
            self._meshes, self._ranks = {}, {}
        if size > world.size:
            raise ValueError(f"a mesh of {size} in a world of {world.size}")
        mesh = self._meshes.setdefault(scope, Mesh(size))
        mesh.add(rank, row)
        ranks = self._ranks.setdefault(scope, defaultdict(list))
        if rank not in ranks[member]:
            ranks[member].append(rank)
        if not mesh.complete:
            return {}
        columns = mesh.columns()
        del self._meshes[scope], self._ranks[scope]
        return {one: {rank: columns[rank] for rank in its} for one, its in ranks.items()}


def shorten(addresses: bytes) -> bytes:
    """Gloo's addresses without the bytes that mean nothing.

    Raises ValueError when they are not of the form that is expected.
    """
    width = _width(addresses)
    count, rest = divmod(len(addresses), ADDRESS)
    if rest:
        raise ValueError(f"{len(addresses)} bytes are not gloo's addresses")
    short = bytearray(count * width)
    for byte in range(width):
        short[byte::width] = addresses[byte::ADDRESS]
    if lengthen(bytes(short)) != addresses:
        raise ValueError("gloo's addresses hold more than was expected")
    return bytes(short)


def lengthen(addresses: bytes) -> bytes:
    """The inverse of ``shorten``. Raises ValueError for what it never returns."""
    width = _width(addresses)
    count, rest = divmod(len(addresses), width)
    if rest:
        raise ValueError(f"{len(addresses)} bytes are not addresses")
    long = bytearray((bytes(_STORAGE) + _UNUSED) * count)
    for byte in range(width):
        long[byte::ADDRESS] = addresses[byte::width]
    return bytes(long)


def _width(addresses: bytes) -> int:
    """How many bytes of each address mean something, as the first one says."""
    family = int.from_bytes(addresses[:2], sys.byteorder)
    if family not in _SHORT:
        raise ValueError(f"there are no addresses of family {family}")
    return _SHORT[family]
