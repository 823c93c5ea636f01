"""An agent's link to its leader: who is not accepted says why, and ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainer.coordinator.leader import leading, seat
from trainer.agent import reach
from trainer.agent.link import Link, Refused
from trainer.agent.processes import free_port
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.authority import Authority
from trainer.protocol.credentials import Credentials
from trainer.protocol.lease import (
    Claim,
    Contend,
    Follow,
    Wait,
    create_claim,
    newest_term,
    renew_claim,
)
from trainer.rundir import attempts
from trainer.rundir.attempts import record_name
from trainer.rundir.formats import PROTOCOL


async def carry_out(order: pb.FromCoordinator) -> None:
    raise AssertionError(f"it was led: {order}")


@pytest.mark.parametrize(("protocol", "older"), [(0, "agent"), (PROTOCOL + 1, "coordinator")])
def test_an_agent_of_another_protocol_says_whose_image_is_to_be_updated(
    tmp_path: Path, protocol: int, older: str
) -> None:
    def introduce() -> None:
        hello = pb.Hello(member="workerpool1-0#b1", slots=1, protocol=protocol)
        link.say(hello=hello)

    async def body() -> None:
        async with leading(tmp_path):
            try:
                await asyncio.wait_for(link.run(), 600.0)
            finally:
                await link.close(resign=False)

    link = Link(seat(tmp_path).run_dir, seat(tmp_path), False, introduce, carry_out)
    with pytest.raises(Refused) as caught:
        asyncio.run(body())
    assert str(caught.value) == (
        "the coordinator of leader#0 refuses this agent: "
        f"the agent speaks protocol {protocol}, and the coordinator {PROTOCOL}: "
        f"update the {older}'s image (container.image); all pools of a run need one version of "
        "Swell"
    )


def test_a_leader_whose_attempt_was_given_up_is_deposed_by_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "ASK_AGAIN", 0.0)
    run_dir = seat(tmp_path).run_dir
    ours = Credentials.parse(Authority.new().issue(2))
    link = Link(run_dir, replace(seat(tmp_path), credentials=ours), False, lambda: None, carry_out)
    create_claim(run_dir, Claim(4, "workerpool0-0#a1", "127.0.0.1:1", attempt=1))

    async def looks() -> object:
        return await link._look()

    run_dir.write_json(record_name(1), {"state": "RUNNING"})
    assert isinstance(asyncio.run(looks()), Follow)
    run_dir.write_json(record_name(1), {"state": "RUNNING", "left": "it has had no machines"})
    assert asyncio.run(looks()) == Contend(5)
    run_dir.write_json(record_name(3), {"state": "RUNNING"})
    assert asyncio.run(looks()) == Wait(), "who has reached no leader leaves it to those who have"
    theirs = Link(run_dir, seat(tmp_path), False, lambda: None, carry_out)
    assert isinstance(asyncio.run(theirs._look()), Follow), "those of the attempt itself follow it"


def test_a_leader_that_lives_and_is_out_of_reach_is_told_of_and_not_contended_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "LATE", 0.0)
    run_dir = seat(tmp_path).run_dir
    ours = Credentials.parse(Authority.new().issue(2))
    told: asyncio.Queue[tuple[Claim, str]] = asyncio.Queue()
    link = Link(
        run_dir,
        replace(seat(tmp_path), credentials=ours),
        False,
        lambda: None,
        carry_out,
        lambda claim, why: told.put_nowait((claim, why)),
    )
    claim = Claim(4, "1/workerpool0-0#a1", f"127.0.0.1:{free_port()}", attempt=1)
    create_claim(run_dir, claim)

    async def follow() -> tuple[Claim, str]:
        following = asyncio.create_task(link.run())
        try:
            counter = 0
            while told.empty():
                counter += 1
                renew_claim(run_dir, replace(claim, counter=counter))
                await asyncio.sleep(0.05)
            return told.get_nowait()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await link.close(resign=False)

    unreached, why = asyncio.run(follow())
    assert unreached.member == claim.member and why
    assert newest_term(run_dir) == 4
