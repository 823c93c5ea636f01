"""An agent answers what its coordinator asks about its workers, and nothing else."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.trainer.agent.test_stacks import Worker, deadlock, process, until
from tests.trainer.ranks import PATIENCE
from trainer.agent import strain
from trainer.agent.inspector import Inspector
from trainer.agent.slots import Slot
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.messages import Profile

GENERATION: Any = SimpleNamespace(number=3, ended_in=set())


async def answered(worker: Worker, order: pb.FromCoordinator) -> dict[str, Any]:
    """What it says to an order."""
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    slots: Any = SimpleNamespace(all=[Slot(0, worker)])
    inspector = Inspector(slots, lambda **body: said.put_nowait(body))
    inspector.answer(order, GENERATION)
    return await asyncio.wait_for(said.get(), PATIENCE)


def test_it_says_what_its_workers_do() -> None:
    with process(deadlock) as pid:
        until(pid, "deadlock")
        order = pb.FromCoordinator(inspect=pb.Inspect(number=7, generation=3))
        said = asyncio.run(answered(Worker(pid, 0), order))
    assert said["stacks"].number == 7
    assert "in deadlock" in said["stacks"].stacks[0].text


def test_it_says_why_one_is_slow_if_its_machine_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strain, "WATCHED", 0.1)
    monkeypatch.setattr(strain, "why", lambda before, after, stopped: f"stopped {stopped}")
    with process(deadlock) as pid:
        order = pb.FromCoordinator(examine=pb.Examine(generation=3, rank=0))
        said = asyncio.run(answered(Worker(pid, 0), order))
    assert said["examined"] == pb.Examined(generation=3, rank=0, reason="stopped 0.0")


def test_of_a_worker_that_is_gone_there_is_nothing_to_say() -> None:
    order = pb.FromCoordinator(examine=pb.Examine(generation=3, rank=0))
    said = asyncio.run(answered(Worker(None, 0), order))
    assert said["examined"] == pb.Examined(generation=3, rank=0)


def test_a_profile_is_asked_of_the_worker_that_has_the_rank() -> None:
    orders: dict[int, list[Any]] = {1: [], 2: []}
    workers: list[Any] = [
        SimpleNamespace(rank=rank, send=sent.append) for rank, sent in orders.items()
    ]
    slots: Any = SimpleNamespace(all=[Slot(slot, it) for slot, it in enumerate(workers)])
    asked = pb.Profile(generation=3, rank=2, number=5, first=10, last=12, memory=True)
    inspector = Inspector(slots, lambda **body: None)
    inspector.answer(pb.FromCoordinator(profile=asked), GENERATION)
    asked.generation = 4
    inspector.answer(pb.FromCoordinator(profile=asked), GENERATION)
    assert orders == {1: [], 2: [Profile(5, 3, 2, 10, 12, memory=True)]}


@pytest.mark.parametrize("generation", [None, SimpleNamespace(number=4, ended_in=set())])
def test_what_is_asked_of_another_generation_has_no_answer(generation: Any) -> None:
    async def ask() -> None:
        said: list[Any] = []
        slots: Any = SimpleNamespace(all=[])
        inspector = Inspector(slots, lambda **body: said.append(body))
        inspector.answer(pb.FromCoordinator(inspect=pb.Inspect(generation=3)), generation)
        inspector.answer(pb.FromCoordinator(examine=pb.Examine(generation=3)), generation)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()} and said == []

    asyncio.run(ask())
