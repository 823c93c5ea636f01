"""Simulated ranks: clients that ask a real rendezvous what Horovod's client asks."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection

from simulated import CoordinatorProcess, Host, SimulatedAgent, forks, run
from trainer.agent.rendezvous import host_key
from trainer.protocol.world import Place, World

LIMIT = 60.0  # seconds for one re-formation


class Client:
    """Asks what Horovod's client asks for one rank.

    Args:
        place: the rank's, the same in all worlds.
    """

    def __init__(self, place: Place) -> None:
        host = host_key(place.member)
        self._rank_and_size = f"/rank_and_size/{host}:{place.local_rank}"
        self._meshes = [
            (f"/{scope}/{rank}/{size}", row(scope, rank, size), column(scope, rank, size))
            for scope, rank, size in (
                ("global", place.rank, place.size),
                (f"local_{host}", place.local_rank, place.local_size),
                (f"cross_{place.local_rank}", place.cross_rank, place.cross_size),
            )
            if size > 1 and (scope == "global" or size < place.size)
        ]
        self._answers: list[tuple[bytes, bytes]] = []

    async def join(self, port: int) -> None:
        """Asks everything, one thing after the other, each over a new connection."""
        self._answers = []
        await self._ask(port, "GET", self._rank_and_size, b"")
        for path, mine, theirs in self._meshes:
            self._answers.append((await self._ask(port, "POST", path, mine), theirs))

    def check(self) -> None:
        """Raises unless every answer was what the others had sent for this rank."""
        assert len(self._answers) == len(self._meshes)
        assert all(answer == due for answer, due in self._answers)

    async def _ask(self, port: int, method: str, path: str, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.read()
        writer.close()
        status, _, content = answer.partition(b"\r\n\r\n")
        assert status.startswith(b"HTTP/1.1 200 ")
        return content


def row(scope: str, rank: int, size: int) -> bytes:
    """Addresses, in gloo's form, that tell who made them and for whom."""
    return b"".join(address(scope, rank, peer) for peer in range(size) if peer != rank)


def column(scope: str, rank: int, size: int) -> bytes:
    """What all others make for ``rank``."""
    return b"".join(address(scope, peer, rank) for peer in range(size) if peer != rank)


def address(scope: str, rank: int, peer: int) -> bytes:
    ip = struct.pack("!HBB", rank, ord(scope[0]), ord(scope[-1]))
    sockaddr = struct.pack("=H", socket.AF_INET) + struct.pack("!H", peer + 1) + ip
    return sockaddr.ljust(128, b"\0") + b"\xff" * 8


class Crowd:
    """A process with some of the agents of a world, and their clients.

    Args:
        coordinator: of all of them.
        world: that all of them will form.
        share: which of its members are here.
    """

    def __init__(self, coordinator: CoordinatorProcess, world: World, share: range) -> None:
        self._line, theirs = forks.Pipe()
        args = (theirs, coordinator.target, coordinator.token, world, share)
        self._process = forks.Process(target=_attend, args=args, daemon=True)
        self._process.start()
        theirs.close()

    def break_off(self) -> None:
        """One of its agents says that a collective failed."""
        self._line.send(None)

    def joined(self) -> tuple[float, float]:
        """When its first agent was told of a world, and when its last client was done."""
        assert self._line.poll(LIMIT), f"no world within {LIMIT:g} s"
        times: tuple[float, float] = self._line.recv()
        return times

    def close(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.join()


def _attend(line: Connection, target: str, token: str, world: World, share: range) -> None:
    run(_attend_all(line, target, token, world, share))


async def _attend_all(
    line: Connection, target: str, token: str, world: World, share: range
) -> None:
    members = [world.members[i] for i in share]
    places = {member: world.places_of(member) for member in members}
    clients = {member: [Client(place) for place in places[member]] for member in members}
    told: list[float] = []
    done: asyncio.Queue[float] = asyncio.Queue()

    async def join(agent: SimulatedAgent, formed: World, port: int) -> None:
        assert formed.members == world.members
        told.append(time.monotonic())
        await asyncio.gather(*(client.join(port) for client in clients[agent.member]))
        done.put_nowait(time.monotonic())

    async def leave() -> None:
        return None

    async with AsyncExitStack() as stack:
        agents = []
        for member in members:
            host = Host(join, leave)
            stack.push_async_callback(host.close)
            size = len(places[member])
            agent = SimulatedAgent(
                target, token, member.replica, size, host.formed, host.aborted, host.columns
            )
            agents.append(await stack.enter_async_context(agent))
        while True:
            last = max([await done.get() for _ in members])
            for client in (one for member in members for one in clients[member]):
                client.check()
            line.send((min(told), last))
            told.clear()
            await asyncio.to_thread(line.recv)
            agents[0].stopped("a collective failed")
