"""Horovod's rendezvous, one server per agent and generation, on loopback only.

To build a mesh (a scope: ``global``, ``cross_<local rank>``, ``local_<host>``) a rank
asks one thing: ``POST /<scope>/<rank>/<size>`` with its own row of addresses, and the
answer, held until all ranks have asked, is its column of theirs (see ``trainer.protocol.mesh``).
Horovod's own client, which asks for each key of each peer by itself, does this when
HOROVOD_GLOO_RENDEZVOUS_COLUMNS is set and it was built by containers/build_horovod.py.

- A row goes up the agent's stream, and a member's columns come down in one message: the
  messages of a whole re-formation grow with the ranks and not with their square.
- Rows of a local scope stay on the VM.
- ``rank_and_size/...``, which Horovod asks for when it is initialised again, is answered
  from the plan.

When the generation is broken off, everything is answered with an empty value. Gloo takes
that for a bad address and fails at once, where an HTTP error would be retried for a
second and a half.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from trainer.protocol.mesh import ADDRESS, Mesh, lengthen, shorten
from trainer.protocol.world import MemberId, World

_HEAD_LIMIT = 64 * 1024  # bytes of a request's head
_BODY_LIMIT = 16 * 2**20  # bytes of a row
_SCOPES_LIMIT = 3000  # of one generation: 3 for the world, and 3 for each process set

log = logging.getLogger("swell.agent")


def host_key(member: MemberId) -> str:
    """The member's name in Horovod's scopes, which become parts of URLs."""
    return member.file_name


class Rendezvous:
    """The rendezvous of one generation.

    Args:
        world: the generation's plan.
        member: whose workers are served.
        send: called with (scope, size, rank, row) for each row that other agents wait for;
            what comes back is for ``take``.
    """

    def __init__(
        self, world: World, member: MemberId, send: Callable[[str, int, int, bytes], None]
    ) -> None:
        self.generation = world.generation
        self.port = 0
        self._size = world.size
        self._send = send
        self._columns: dict[str, dict[int, asyncio.Future[bytes]]] = {}  # by scope and rank
        self._sent: list[tuple[str, int, int, bytes]] = []
        self._local: dict[str, Mesh] = {}
        self._broken = False
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._places = {
            f"/rank_and_size/{host_key(member)}:{place.local_rank}": (
                f"{place.rank},{place.size},{place.local_rank},{place.local_size},"
                f"{place.cross_rank},{place.cross_size}"
            ).encode()
            for place in world.places_of(member)
        }

    async def start(self) -> None:
        """Starts to listen on a free port of 127.0.0.1."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, backlog=4096, limit=_HEAD_LIMIT
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def take(self, scope: str, rank: int, column: bytes) -> None:
        """Takes in the column of one of this agent's ranks, and answers it.

        A column that nobody asked for is dropped. Raises ValueError for what is no column.
        """
        asked = self._columns.get(scope, {}).get(rank)
        if asked is not None and not asked.done():
            asked.set_result(lengthen(column))

    def send_again(self) -> None:
        """Sends all rows once more: a new leader has seen none of them."""
        for row in self._sent:
            self._send(*row)

    def break_off(self) -> None:
        """Lets every held and every further request fail fast."""
        self._broken = True
        for columns in self._columns.values():
            for asked in columns.values():
                if not asked.done():
                    asked.set_result(b"")

    async def close(self) -> None:
        """Stops listening and drops what is still connected."""
        self.break_off()
        if self._server is not None:
            self._server.close()
        for writer in list(self._connections):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ", 2)
            body = b""
            for line in head[1:]:
                name, _, value = line.partition(":")
                if name.lower() == "content-length":
                    length = int(value)
                    if not 0 <= length <= _BODY_LIMIT:
                        return
                    body = await reader.readexactly(length)
            answer = await self._answer(method, path, body)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(answer)
                + answer
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return  # not one of our workers, or one that died
        except ValueError as error:
            log.warning("the rendezvous was asked for nonsense: %s", error)
        finally:
            self._connections.discard(writer)
            with suppress(OSError):
                writer.close()

    async def _answer(self, method: str, path: str, body: bytes) -> bytes:
        if self._broken:
            return b""
        if method == "POST":
            _, scope, rank, size = path.split("/")
            return await self._column(scope, int(rank), int(size), body)
        if method == "GET" and path in self._places:
            return self._places[path]
        log.error(
            "%s %s: this Horovod was not built by containers/build_horovod.py, and cannot "
            "join a world; `make setup` builds and installs the one that can",
            method,
            path[:100],
        )
        return b""

    async def _column(self, scope: str, rank: int, size: int, row: bytes) -> bytes:
        """The addresses that the others made for a rank of this VM, once they all have."""
        if not 0 <= rank < size <= self._size:
            raise ValueError(f"rank {rank} of {size} in a world of {self._size}")
        if len(row) != (size - 1) * ADDRESS:
            raise ValueError(f"{len(row)} bytes are not {size - 1} addresses")
        short = shorten(row)
        if scope not in self._columns and len(self._columns) >= _SCOPES_LIMIT:
            raise ValueError(f"more than {_SCOPES_LIMIT} scopes")
        columns = self._columns.setdefault(scope, {})
        asked = columns.get(rank)
        if asked is None:  # else a request that broke is made again
            asked = columns[rank] = asyncio.get_running_loop().create_future()
            if scope.startswith("local_"):
                self._meet(scope, size, rank, short)
            else:
                self._sent.append((scope, size, rank, short))
                self._send(scope, size, rank, short)
        return await asyncio.shield(asked)

    def _meet(self, scope: str, size: int, rank: int, row: bytes) -> None:
        """A rank of a scope that does not leave this VM."""
        mesh = self._local.setdefault(scope, Mesh(size))
        mesh.add(rank, row)
        if mesh.complete:
            for other, column in enumerate(mesh.columns()):
                self.take(scope, other, column)
