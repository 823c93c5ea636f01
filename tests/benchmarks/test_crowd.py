"""Simulated ranks find each other through real rendezvous servers and a real coordinator."""

from __future__ import annotations

from pathlib import Path

import pytest

from crowd import Crowd, column, row
from simulated import CoordinatorProcess
from trainer.coordinator.limits import Limits
from trainer.protocol.world import MemberId, arrange


@pytest.mark.parametrize("slots", [[1, 1, 1], [2, 1, 3, 2]], ids=str)
def test_every_rank_gets_what_the_others_made_for_it_world_after_world(
    tmp_path: Path, slots: list[int]
) -> None:
    members = [(MemberId(f"vm-{i:04}", "0"), count) for i, count in enumerate(slots)]
    world = arrange(1, members)
    limits = Limits(min_workers=world.size, max_workers=world.size, hold_off=0.0)
    coordinator = CoordinatorProcess(tmp_path, limits, world.size)
    half = len(slots) // 2
    crowds = []
    try:
        for share in (range(half), range(half, len(slots))):
            crowds.append(Crowd(coordinator, world, share))
        for _ in range(3):
            for crowd in crowds:
                told, done = crowd.joined()  # each of its clients has checked its answers
                assert told < done
            for crowd in crowds:
                crowd.break_off()
    finally:
        for crowd in crowds:
            crowd.close()
        coordinator.close()


def test_an_address_tells_who_made_it_and_for_whom() -> None:
    rows = [row("global", rank, 4) for rank in range(4)]
    addresses = {row[i : i + 136] for row in rows for i in range(0, len(row), 136)}
    assert len(addresses) == 4 * 3
    for rank in range(4):
        its = column("global", rank, 4)
        assert {its[i : i + 136] for i in range(0, len(its), 136)} <= addresses
