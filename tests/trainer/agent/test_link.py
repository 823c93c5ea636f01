"""An agent's link to its leader: who is not accepted says why, and ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainer.coordinator.leader import leading, seat
from trainer.agent.link import Link, Refused
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.authority import Authority
from trainer.protocol.credentials import Credentials
from trainer.protocol.lease import Claim, Contend, Follow, create_claim
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
    theirs = Link(run_dir, seat(tmp_path), False, lambda: None, carry_out)
    assert isinstance(asyncio.run(theirs._look()), Follow), "those of the attempt itself follow it"
