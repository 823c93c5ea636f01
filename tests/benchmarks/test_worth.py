from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from worth import REPLICAS, machine_seconds, storm


@pytest.mark.parametrize("steps", [46, 240, 460, 5000])
def test_a_storm_takes_one_vm_at_a_time_and_gives_it_back(steps: int) -> None:
    market = storm(steps)
    assert market == storm(steps), "the same each time"
    away = [(_step(one["at"]), _step(one["back"])) for one in market]
    assert all(0 < begin < end < steps for begin, end in away)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(away))
    assert {one.get("preempt") or one["vanish"] for one in market} <= {*REPLICAS}
    assert {"preempt", "vanish"} <= {key for one in market for key in one}


def _step(text: str) -> int:
    return int(text.removesuffix(" steps"))


def test_machines_count_while_they_are_members() -> None:
    def event(name: str, at: float, member: str, incarnation: str, **more: Any) -> dict[str, Any]:
        about = {"member": member, "incarnation": incarnation}
        return {"event": name, "time": at, **about, **more}

    events = [
        event("member_joined", 0.0, "a", "1"),
        event("member_joined", 1.0, "b", "1"),
        event("member_joined", 2.0, "b", "1"),  # to another leader
        event("loss", 3.0, "b", "1", gone=False),  # a worker of it
        event("drain", 5.0, "b", "1"),
        event("loss", 6.0, "b", "1", gone=True),
        event("member_joined", 8.0, "b", "2"),
        event("loss", 9.0, "c", "7", gone=True),  # joined before anything was written
        {"event": "finished", "time": 10.0},
    ]
    assert machine_seconds(events) == 10.0 + 4.0 + 2.0
