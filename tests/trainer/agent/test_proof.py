"""Agents of two jobs show each other that they connect, each with the certificate of its job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from trainer.agent.processes import free_port
from trainer.agent.proof import Proof
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.authority import Authority
from trainer.protocol.credentials import Credentials

AUTHORITY = Authority.new()
FIRST, SECOND = (Credentials.parse(AUTHORITY.issue(attempt)) for attempt in (1, 2))
STRANGER = Credentials.parse(Authority.new().issue(2))
ADDRESS = "127.0.0.1"
PEER = "2/workerpool0-0#b"


@asynccontextmanager
async def answering(credentials: Credentials) -> AsyncIterator[str]:
    """Yields where an agent with these credentials answers."""
    proof = Proof(credentials, ADDRESS, lambda proved: None)
    await proof.open()
    try:
        yield f"{ADDRESS}:{proof.port}"
    finally:
        await proof.close()


async def given(credentials: Credentials, target: str, peer: str = PEER) -> pb.Proved:
    """What an agent with these credentials says of a peer."""
    said: asyncio.Queue[pb.Proved] = asyncio.Queue()
    proof = Proof(credentials, ADDRESS, said.put_nowait)
    proof.give(pb.Prove(peer=peer, target=target))
    try:
        return await said.get()
    finally:
        await proof.close()


def proved(answers: Credentials, asks: Credentials, peer: str = PEER) -> pb.Proved:
    async def prove() -> pb.Proved:
        async with answering(answers) as target:
            return await given(asks, target, peer)

    return asyncio.run(prove())


def test_who_is_reached_is_measured() -> None:
    told = proved(SECOND, FIRST)
    assert (told.peer, told.failed) == (PEER, "")
    assert (told.address, told.peer_address) == (ADDRESS, ADDRESS)
    assert told.latency > 0 and told.bandwidth > 0


@pytest.mark.parametrize(
    "answers, asks, peer",
    [(STRANGER, FIRST, PEER), (SECOND, STRANGER, PEER), (SECOND, FIRST, "3/workerpool0-0#c")],
    ids=["a stranger answers", "a stranger asks", "another job answers"],
)
def test_without_the_certificate_of_that_job_nothing_is_shown(
    answers: Credentials, asks: Credentials, peer: str
) -> None:
    assert proved(answers, asks, peer).failed


def test_where_nobody_listens_the_reason_is_told() -> None:
    told = asyncio.run(given(FIRST, f"{ADDRESS}:{free_port()}"))
    assert "onnect" in told.failed and told.latency == 0


def test_a_peer_that_does_not_say_where_it_answers_is_not_reached() -> None:
    assert "older" in asyncio.run(given(FIRST, "")).failed


def test_an_order_about_no_member_of_a_job_is_none() -> None:
    async def order(peer: str) -> None:
        Proof(FIRST, ADDRESS, lambda proved: None).give(pb.Prove(peer=peer, target="x:1"))

    for peer in ("", "workerpool0-0#a", "x/workerpool0-0#a"):
        with pytest.raises(ValueError):
            asyncio.run(order(peer))
