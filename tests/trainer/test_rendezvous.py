"""Horovod's store of one generation, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import rendezvous
from trainer.rendezvous import Rendezvous, host_key, scope_size
from trainer.world import World

from .ranks import PATIENCE, Meeting, Process, _member, world_of

WORLD = world_of(2, 1, generation=7)
MINE, OTHER = WORLD.members


class Store:
    """A rendezvous that is listening, and what it sent up."""

    def __init__(self, world: World) -> None:
        self.up: list[tuple[str, str, bytes]] = []
        self.rendezvous = Rendezvous(world, MINE, lambda *key: self.up.append(key))

    async def raw(self, request: bytes) -> bytes:
        """Sends bytes as they are. Returns all that comes back until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.rendezvous.port)
        try:
            writer.write(request)
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), PATIENCE)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def put(self, path: str, value: bytes) -> None:
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(value)}\r\n\r\n"
        assert (await self.raw(head.encode() + value)).startswith(b"HTTP/1.1 200 ")

    async def get(self, path: str) -> bytes:
        answer = await self.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: %d\r\n" % len(body) in head
        return body

    async def held(self, path: str) -> asyncio.Task[bytes]:
        """A GET that the server holds by now."""
        task = asyncio.create_task(self.get(path))
        while path not in self.rendezvous._arrived:
            assert not task.done()
            await asyncio.sleep(0)
        return task


@asynccontextmanager
async def listening(world: World = WORLD) -> AsyncIterator[Store]:
    store = Store(world)
    await store.rendezvous.start()
    try:
        yield store
    finally:
        await store.rendezvous.close()


def serving(test: Callable[[Store], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test of one store."""

    def run() -> None:
        async def body() -> None:
            async with listening() as store:
                await test(store)

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


@serving
async def test_a_key_of_another_agent_is_answered(store: Store) -> None:
    store.rendezvous.add("global", "2", b"\x00\xff")
    assert await store.get("/global/2") == b"\x00\xff"


@serving
async def test_a_get_is_held_until_the_key_comes_from_another_agent(store: Store) -> None:
    held = await store.held("/global/2")
    also = await store.held("/global/2")
    store.rendezvous.add("global", "1", b"another")
    assert not held.done()
    store.rendezvous.add("global", "2", b"value")
    assert await held == await also == b"value"


@serving
async def test_a_get_is_held_until_the_key_comes_from_the_same_agent(store: Store) -> None:
    held = await store.held("/cross_0/0")
    await store.put("/cross_0/0", b"value")
    assert await held == b"value"


@serving
async def test_a_put_goes_up_once_however_many_want_it(store: Store) -> None:
    await store.put("/global/0", b"value")
    assert [await store.get("/global/0") for _ in range(3)] == [b"value"] * 3
    assert store.up == [("global", "0", b"value")]


@serving
async def test_a_key_that_came_down_does_not_go_up_again(store: Store) -> None:
    store.rendezvous.add("global", "2", b"value")
    await store.get("/global/2")
    assert store.up == []


@serving
async def test_keys_of_a_local_scope_stay(store: Store) -> None:
    await store.put(f"/local_{host_key(MINE)}/0", b"value")
    assert await store.get(f"/local_{host_key(MINE)}/0") == b"value"
    assert store.up == []


@serving
async def test_an_empty_value_is_a_value(store: Store) -> None:
    await store.put("/global/0", b"")
    assert await store.get("/global/0") == b""
    assert store.up == [("global", "0", b"")]


@serving
async def test_a_large_value_comes_back(store: Store) -> None:
    value = bytes(range(256)) * 4096
    await store.put("/global/0", value)
    assert await store.get("/global/0") == value


@serving
async def test_rank_and_size_come_from_the_plan(store: Store) -> None:
    # rank, size, local rank, local size, cross rank, cross size
    answers = {
        f"{host_key(MINE)}:0": b"0,3,0,2,0,2",
        f"{host_key(MINE)}:1": b"1,3,1,2,0,1",
        f"{host_key(OTHER)}:0": b"2,3,0,1,1,2",
    }
    for name, answer in answers.items():
        assert await store.get(f"/rank_and_size/{name}") == answer
    assert store.up == []


@serving
async def test_hosts_differ_except_in_a_local_scope(store: Store) -> None:
    """Gloo only compares them: equal ones are on one machine."""
    assert await store.get("/global/rank_0") != await store.get("/global/rank_1")
    local = f"/local_{host_key(MINE)}"
    assert await store.get(f"{local}/rank_0") == await store.get(f"{local}/rank_1")
    await store.put("/global/rank_0", b"hostname")
    assert store.up == []


@serving
async def test_break_off_answers_everything_with_nothing_at_once(store: Store) -> None:
    await store.put("/global/0", b"value")
    held = [await store.held(f"/global/{rank}") for rank in (1, 2)]
    store.rendezvous.break_off()
    assert [await one for one in held] == [b"", b""]
    assert await store.get("/global/0") == b""
    assert await store.get("/global/3") == b""
    assert await store.get("/cross_0/1") == b""


@serving
async def test_a_key_that_comes_after_break_off_changes_nothing(store: Store) -> None:
    store.rendezvous.break_off()
    store.rendezvous.add("global", "2", b"late")
    assert await store.get("/global/2") == b""


def test_a_closed_one_lets_go_of_everybody() -> None:
    async def body() -> None:
        async with listening() as store:
            held = await store.held("/global/2")
        assert (await asyncio.gather(held, return_exceptions=True)) is not None
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", store.rendezvous.port)
        await store.rendezvous.close()

    asyncio.run(body())


def test_one_that_never_started_can_be_closed() -> None:
    rendezvous = Store(WORLD).rendezvous
    asyncio.run(rendezvous.close())
    assert rendezvous.port == 0, "it never listened"


def test_it_listens_on_loopback_only() -> None:
    async def body() -> None:
        async with listening() as store:
            assert store.rendezvous._server is not None
            hosts = {one.getsockname()[0] for one in store.rendezvous._server.sockets}
            assert hosts == {"127.0.0.1"}

    asyncio.run(body())


# --- what is not one of our workers -------------------------------------------------------

GARBAGE = [
    b"",
    b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /global/0",
    b"PUT /global/9 HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"PUT /global/9 HTTP/1.1\r\nContent-Length: many\r\n\r\n",
    b"PUT /global/9 HTTP/1.1\r\nContent-Length: 10\r\n\r\nshort",
    b"PUT /global/9 HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n",
    b"x" * (2 * rendezvous._HEAD_LIMIT),
    b"GET /" + b"x" * (2 * rendezvous._HEAD_LIMIT) + b" HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("request_", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_and_giants_do_no_harm(request_: bytes) -> None:
    async def body() -> None:
        async with listening() as store:
            held = await store.held("/global/2")
            await store.raw(request_)
            assert store.up == []
            store.rendezvous.add("global", "2", b"value")
            assert await held == b"value"

    asyncio.run(body())


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_do_no_harm(requests: list[bytes]) -> None:
    async def body() -> None:
        async with listening() as store:
            for request in requests:
                await store.raw(request)
            await store.put("/global/0", b"value")
            assert await store.get("/global/0") == b"value"

    asyncio.run(body())


@serving
async def test_another_method_is_answered_and_changes_nothing(store: Store) -> None:
    await store.put("/global/0", b"value")
    await store.raw(b"DELETE /global/0 HTTP/1.1\r\n\r\n")
    assert await store.get("/global/0") == b"value"


@serving
async def test_a_worker_that_dies_while_it_is_held_harms_nobody(store: Store) -> None:
    _reader, writer = await asyncio.open_connection("127.0.0.1", store.rendezvous.port)
    writer.write(b"GET /global/2 HTTP/1.1\r\n\r\n")
    while "/global/2" not in store.rendezvous._arrived:
        await asyncio.sleep(0)
    writer.transport.abort()
    held = await store.held("/global/2")
    store.rendezvous.add("global", "2", b"value")
    assert await held == b"value"


# --- scopes -------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 8), min_size=1, max_size=6))
def test_a_scope_is_complete_with_the_keys_of_all_its_ranks(slots: list[int]) -> None:
    world = world_of(*slots)
    assert scope_size(world, "global") == len(world.places)
    for local_rank in range(9):
        ranks = sum(place.local_rank == local_rank for place in world.places)
        assert scope_size(world, f"cross_{local_rank}") == ranks


@pytest.mark.parametrize("scope", ["", "local_a", "cross_", "cross_x", "cross", "rank_and_size"])
def test_other_scopes_do_not_travel(scope: str) -> None:
    assert scope_size(WORLD, scope) == 0


def nothing() -> None:
    """A rank that joins and leaves."""


@pytest.mark.parametrize("slots", [[1, 1], [2, 1], [2, 2]], ids=str)
def test_horovod_itself_fills_the_scopes_that_were_expected(slots: list[int]) -> None:
    with Meeting(world_of(*slots)) as meeting:
        ranks = [Process(_member, env, nothing, ()) for env in meeting.environments]
        try:
            for rank in ranks:
                rank.result()
        finally:
            for rank in ranks:
                rank.close()
    scopes = Counter(scope for scope, _ in meeting.puts)
    assert len(set(meeting.puts)) == len(meeting.puts)
    assert scopes
    for scope, count in scopes.items():
        assert count == scope_size(meeting.world, scope), scope
