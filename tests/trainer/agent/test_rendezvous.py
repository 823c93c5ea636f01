"""Horovod's rendezvous of one generation, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.ranks import PATIENCE, Meeting, Process, _member, gloo_address, world_of
from trainer.agent import rendezvous
from trainer.agent.rendezvous import Rendezvous, host_key
from trainer.protocol.mesh import shorten
from trainer.protocol.world import World

WORLD = world_of(2, 1, generation=7)  # ranks 0 and 1, and rank 2
MINE, OTHER = WORLD.members
LOCAL = f"local_{host_key(MINE)}"


def address(number: int) -> bytes:
    return gloo_address(ipaddress.ip_address("127.0.0.1"), number)


ROW = address(1) + address(2)
COLUMN = address(3) + address(4)


class Server:
    """A rendezvous that is listening, and what it sent up."""

    def __init__(self, world: World) -> None:
        self.up: list[tuple[str, int, int, bytes]] = []
        self.rendezvous = Rendezvous(world, MINE, lambda *row: self.up.append(row))

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

    async def ask(self, method: str, path: str, value: bytes = b"") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(value)}\r\n\r\n"
        answer = await self.raw(head.encode() + value)
        head, _, body = (part.decode("latin-1") for part in answer.partition(b"\r\n\r\n"))
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert f"Content-Length: {len(body)}\r\n" in head
        return body.encode("latin-1")

    async def held(self, path: str, row: bytes) -> asyncio.Task[bytes]:
        """A POST that the server holds by now."""
        _, scope, rank, _ = path.split("/")
        task = asyncio.create_task(self.ask("POST", path, row))
        while int(rank) not in self.rendezvous._columns.get(scope, {}):
            assert not task.done()
            await asyncio.sleep(0)
        return task


@asynccontextmanager
async def listening(world: World = WORLD) -> AsyncIterator[Server]:
    server = Server(world)
    await server.rendezvous.start()
    try:
        yield server
    finally:
        await server.rendezvous.close()


def serving(test: Callable[[Server], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test of one server."""

    def run() -> None:
        async def body() -> None:
            async with listening() as server:
                await test(server)

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


@serving
async def test_a_row_goes_up_and_is_held_until_its_column_comes_down(server: Server) -> None:
    held = await server.held("/global/0/3", ROW)
    also = await server.held("/global/1/3", COLUMN)
    assert server.up == [("global", 3, 0, shorten(ROW)), ("global", 3, 1, shorten(COLUMN))]
    server.rendezvous.take("global", 1, shorten(ROW))
    assert await also == ROW
    assert not held.done()
    server.rendezvous.take("global", 0, shorten(COLUMN))
    assert await held == COLUMN


@serving
async def test_a_request_that_broke_is_made_again_and_goes_up_once(server: Server) -> None:
    first = await server.held("/global/0/3", ROW)
    again = await server.held("/global/0/3", ROW)
    server.rendezvous.take("global", 0, shorten(COLUMN))
    server.rendezvous.take("global", 0, shorten(ROW))  # the first one counts
    assert await first == await again == COLUMN
    assert await server.ask("POST", "/global/0/3", ROW) == COLUMN
    assert len(server.up) == 1


@serving
async def test_a_new_leader_is_sent_all_rows_again(server: Server) -> None:
    held = await server.held("/global/0/3", ROW)
    await server.held("/global/1/3", ROW)
    await server.held(f"/{LOCAL}/0/2", address(1))
    server.rendezvous.take("global", 0, shorten(COLUMN))
    assert await held == COLUMN
    sent = list(server.up)
    server.rendezvous.send_again()  # whoever has no column yet needs the others' rows
    assert server.up == sent * 2


@serving
async def test_rows_of_a_local_scope_stay_and_meet_there(server: Server) -> None:
    held = await server.held(f"/{LOCAL}/0/2", address(1))
    assert await server.ask("POST", f"/{LOCAL}/1/2", address(2)) == address(1)
    assert await held == address(2)
    assert server.up == []


@serving
async def test_scopes_do_not_mix(server: Server) -> None:
    held = await server.held("/global/0/3", ROW)
    also = await server.held("/cross_0/0/2", address(5))
    server.rendezvous.take("cross_0", 0, shorten(address(6)))
    assert await also == address(6)
    assert not held.done()
    server.rendezvous.take("global", 0, shorten(COLUMN))
    await held


@serving
async def test_a_column_that_nobody_asked_for_is_dropped(server: Server) -> None:
    server.rendezvous.take("global", 0, shorten(ROW))
    held = await server.held("/global/0/3", ROW)
    server.rendezvous.take("cross_0", 0, shorten(ROW))
    server.rendezvous.take("global", 1, shorten(ROW))
    assert not held.done()
    server.rendezvous.take("global", 0, shorten(COLUMN))
    assert await held == COLUMN


@serving
async def test_a_column_that_is_none_is_refused(server: Server) -> None:
    held = await server.held("/global/0/3", ROW)
    for garbage in (b"", b"x" * 16):
        with pytest.raises(ValueError):
            server.rendezvous.take("global", 0, garbage)
    server.rendezvous.take("global", 0, shorten(COLUMN))
    assert await held == COLUMN


@serving
async def test_rank_and_size_come_from_the_plan(server: Server) -> None:
    # rank, size, local rank, local size, cross rank, cross size
    answers = {f"{host_key(MINE)}:0": b"0,3,0,2,0,2", f"{host_key(MINE)}:1": b"1,3,1,2,0,1"}
    for name, answer in answers.items():
        assert await server.ask("GET", f"/rank_and_size/{name}") == answer
    assert server.up == []


@serving
async def test_a_horovod_that_asks_for_single_keys_fails_at_once(server: Server) -> None:
    """Gloo takes an empty value for a bad address; without an answer it would wait for ever."""
    assert await server.ask("PUT", "/global/rank_0", b"hostname") == b""
    assert await server.ask("GET", "/global/1") == b""
    assert await server.ask("GET", f"/rank_and_size/{host_key(OTHER)}:0") == b""
    assert await server.ask("DELETE", "/global/0") == b""
    assert server.up == []


def test_it_says_how_to_get_the_right_horovod(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with listening() as server:
            await server.ask("PUT", "/global/rank_0", b"hostname")

    asyncio.run(body())
    assert "PUT /global/rank_0: this Horovod was not built by" in caplog.text


@serving
async def test_break_off_answers_everything_with_nothing_at_once(server: Server) -> None:
    held = [await server.held(f"/global/{rank}/3", ROW) for rank in (0, 1)]
    local = await server.held(f"/{LOCAL}/0/2", address(1))
    server.rendezvous.break_off()
    assert [await one for one in (*held, local)] == [b"", b"", b""]
    assert await server.ask("POST", "/global/0/3", ROW) == b""
    assert await server.ask("POST", "/cross_0/0/2", address(1)) == b""
    assert await server.ask("GET", f"/rank_and_size/{host_key(MINE)}:0") == b""


@serving
async def test_a_column_that_comes_after_break_off_changes_nothing(server: Server) -> None:
    held = await server.held("/global/0/3", ROW)
    server.rendezvous.break_off()
    server.rendezvous.take("global", 0, shorten(COLUMN))
    assert await held == b""


def test_a_closed_one_lets_go_of_everybody() -> None:
    async def body() -> None:
        async with listening() as server:
            held = await server.held("/global/0/3", ROW)
        assert (await asyncio.gather(held, return_exceptions=True)) is not None
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.rendezvous.port)
        await server.rendezvous.close()

    asyncio.run(body())


def test_one_that_never_started_can_be_closed() -> None:
    rendezvous = Server(WORLD).rendezvous
    asyncio.run(rendezvous.close())
    assert rendezvous.port == 0, "it never listened"


def test_it_listens_on_loopback_only() -> None:
    async def body() -> None:
        async with listening() as server:
            assert server.rendezvous._server is not None
            hosts = {one.getsockname()[0] for one in server.rendezvous._server.sockets}
            assert hosts == {"127.0.0.1"}

    asyncio.run(body())


# --- what is not one of our workers -------------------------------------------------------


def post(path: str, row: bytes = ROW) -> bytes:
    return f"POST {path} HTTP/1.1\r\nContent-Length: {len(row)}\r\n\r\n".encode() + row


GARBAGE = [
    b"",
    b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /global/0",
    b"POST /global/0/3 HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /global/0/3 HTTP/1.1\r\nContent-Length: many\r\n\r\n",
    b"POST /global/0/3 HTTP/1.1\r\nContent-Length: 10\r\n\r\nshort",
    b"POST /global/0/3 HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n",
    post("/global/0/3", b""),
    post("/global/0/3", ROW[:-1]),
    post("/global/0/3", b"\x80\x04N." * 68),
    post("/global/0"),
    post("/global/0/3/x"),
    post("/global/x/3"),
    post("/global/-1/3"),
    post("/global/3/3"),
    post("/global/0/4"),
    post("/global/0/99999999999999999999"),
    post(f"/{LOCAL}/0/1"),
    post(f"/{LOCAL}/0/2"),
    b"x" * (2 * rendezvous._HEAD_LIMIT),
    b"GET /" + b"x" * (2 * rendezvous._HEAD_LIMIT) + b" HTTP/1.1\r\n\r\n",
]


@pytest.mark.parametrize("request_", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_and_giants_do_no_harm(request_: bytes) -> None:
    async def body() -> None:
        async with listening() as server:
            held = await server.held("/global/1/3", ROW)
            await server.raw(request_)
            assert len(server.up) == 1
            server.rendezvous.take("global", 1, shorten(COLUMN))
            assert await held == COLUMN

    asyncio.run(body())


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_do_no_harm(requests: list[bytes]) -> None:
    async def body() -> None:
        async with listening() as server:
            for request in requests:
                await server.raw(request)
            held = await server.held("/global/0/3", ROW)
            server.rendezvous.take("global", 0, shorten(COLUMN))
            assert await held == COLUMN

    asyncio.run(body())


def test_there_is_an_end_to_new_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_SCOPES_LIMIT", 2)

    async def body() -> None:
        async with listening() as server:
            held = [await server.held(f"/{scope}/0/3", ROW) for scope in ("a", "b")]
            assert await server.raw(post("/c/0/3")) == b""
            assert len(server.up) == 2
            for scope in ("a", "b"):
                server.rendezvous.take(scope, 0, shorten(COLUMN))
            assert [await one for one in held] == [COLUMN, COLUMN]

    asyncio.run(body())


@serving
async def test_a_worker_that_dies_while_it_is_held_harms_nobody(server: Server) -> None:
    _reader, writer = await asyncio.open_connection("127.0.0.1", server.rendezvous.port)
    writer.write(post("/global/0/3"))
    while not server.up:
        await asyncio.sleep(0)
    writer.transport.abort()
    held = await server.held("/global/1/3", ROW)
    for rank in (0, 1):
        server.rendezvous.take("global", rank, shorten(COLUMN))
    assert await held == COLUMN


# --- Horovod itself -----------------------------------------------------------------------


def sums() -> list[float]:
    """What a rank computes with the others: in the world, and with the other even ones."""
    import horovod.torch as hvd
    import torch

    one = torch.ones(1)
    together = hvd.allreduce(one, op=hvd.Sum).item()
    ranks = hvd.allgather(torch.tensor([hvd.rank()])).tolist()
    assert ranks == list(range(hvd.size()))
    return [together, float(hvd.local_size()), float(hvd.cross_size())]


@pytest.mark.parametrize("slots", [[1, 1], [2], [2, 1], [2, 2]], ids=str)
def test_horovod_builds_no_mesh_twice_and_says_little(slots: list[int]) -> None:
    with Meeting(world_of(*slots)) as meeting:
        ranks = [Process(_member, env, sums, ()) for env in meeting.environments]
        try:
            found = [rank.result() for rank in ranks]
        finally:
            for rank in ranks:
                rank.close()
    size = sum(slots)
    places = meeting.world.places
    assert found == [[size, place.local_size, place.cross_size] for place in places]
    rows = Counter((scope, of) for scope, of, _ in meeting.rows)
    expected = {("global", size): size}
    for place in places:
        if 1 < place.cross_size < size:
            expected[f"cross_{place.local_rank}", place.cross_size] = place.cross_size
    assert rows == expected
