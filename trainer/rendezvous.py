"""Horovod's rendezvous store, one per agent and generation, on loopback only.

Horovod's C++ client PUTs the gloo addresses of its own rank under
``/<scope>/<rank>`` and GETs those of all others, over a new HTTP connection each time.
This server answers its own VM's workers:

- a PUT goes up the agent's stream once, and other agents' keys come down once, so the
  messages of a whole re-formation grow with the ranks and not with their square;
- a GET is held until its key is there: nobody polls;
- ``rank_<i>`` (the host name of a rank, which gloo only compares) and
  ``rank_and_size/...`` are answered from the plan, without asking anybody;
- keys of a local scope stay on the VM.

When the generation is broken off, every GET is answered with an empty value. Gloo
takes that for a bad address and fails at once, where an HTTP error would be retried
for a second and a half.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from trainer.world import MemberId, World

_HEAD_LIMIT = 64 * 1024  # bytes of a request's head
_BODY_LIMIT = 16 * 2**20  # bytes of a PUT; a rank's addresses take about 140 bytes a peer


def host_key(member: MemberId) -> str:
    """The member's name in Horovod's scopes, which become parts of URLs."""
    return f"{member.replica}.{member.incarnation}"


class Rendezvous:
    """The store of one generation.

    Args:
        world: the generation's plan.
        member: whose workers are served.
        put: called with (scope, key, value) for what other agents must know.
    """

    def __init__(
        self, world: World, member: MemberId, put: Callable[[str, str, bytes], None]
    ) -> None:
        self.generation = world.generation
        self.port = 0
        self._world = world
        self._host = host_key(member)
        self._put = put
        self._values: dict[str, bytes] = {}
        self._arrived: dict[str, asyncio.Event] = {}
        self._broken = False
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        for place in world.places:
            line = (
                f"{place.rank},{place.size},{place.local_rank},{place.local_size},"
                f"{place.cross_rank},{place.cross_size}"
            )
            path = f"/rank_and_size/{host_key(place.member)}:{place.local_rank}"
            self._values[path] = line.encode()

    async def start(self) -> None:
        """Starts to listen on a free port of 127.0.0.1."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, backlog=4096, limit=_HEAD_LIMIT
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def add(self, scope: str, key: str, value: bytes) -> None:
        """Takes in a key of another agent's worker, and answers those who wait for it."""
        self._store(f"/{scope}/{key}", value)

    def break_off(self) -> None:
        """Lets every held and every further GET fail fast."""
        self._broken = True
        for event in self._arrived.values():
            event.set()

    async def close(self) -> None:
        """Stops listening and drops what is still connected."""
        self.break_off()
        if self._server is not None:
            self._server.close()
        for writer in list(self._connections):
            writer.close()

    def _store(self, path: str, value: bytes) -> None:
        self._values[path] = value
        event = self._arrived.pop(path, None)
        if event is not None:
            event.set()

    async def _get(self, path: str) -> bytes:
        scope, _, key = path[1:].partition("/")
        if key.startswith("rank_") and scope != "rank_and_size":
            return self._host_of(scope, key)
        while path not in self._values and not self._broken:
            await self._arrived.setdefault(path, asyncio.Event()).wait()
        return self._values[path] if path in self._values and not self._broken else b""

    def _host_of(self, scope: str, key: str) -> bytes:
        """A host name for gloo to compare: peers of a local scope share one, others do not."""
        return self._host.encode() if scope.startswith("local_") else key.encode()

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
            answer = b""
            if method == "PUT":
                self._store(path, body)
                scope, _, key = path[1:].partition("/")
                if not (scope.startswith("local_") or key.startswith("rank_")):
                    self._put(scope, key, body)
            elif method == "GET":
                answer = await self._get(path)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(answer)
                + answer
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
            return  # not one of our workers, or one that died
        finally:
            self._connections.discard(writer)
            with suppress(OSError):
                writer.close()


def scope_size(world: World, scope: str) -> int:
    """How many ranks put their addresses into ``scope``; 0 for a scope that does not travel.

    Scopes are ``global`` and ``cross_<local rank>``, each also with a suffix for the
    global process set.
    """
    if scope.startswith("global"):
        return world.size
    if scope.startswith("cross_"):
        number = scope.removeprefix("cross_").split("_", 1)[0]
        if number.isdigit():
            return sum(1 for _, slots in world.slots if slots > int(number))
    return 0
