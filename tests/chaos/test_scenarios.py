"""Whatever happens to the VMs of a run, it ends well and loses nothing.

The scenarios of one group share a run, because starting workers is what takes time. One alone,
in a run of its own:  CHAOS_ONLY=worker_hangs pytest tests/chaos/test_scenarios.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.emulator import netns
from tests.chaos.run import Run
from tests.chaos.scenarios import GROUPS, NEEDS_LINK

ONLY = os.environ.get("CHAOS_ONLY")
CASES = (
    {ONLY: tuple(one for group in GROUPS.values() for one in group if one.__name__ == ONLY)}
    if ONLY
    else GROUPS
)
MISSING = netns.missing()
KINDS = [
    pytest.param("netns", marks=pytest.mark.skipif(MISSING is not None, reason=MISSING or "")),
    "process",
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", CASES)
def test_a_run_survives(kind: str, group: str, folder: Path, undisturbed: dict[str, float]) -> None:
    scenarios = [one for one in CASES[group] if kind == "netns" or one not in NEEDS_LINK]
    if not scenarios:
        pytest.skip("only a network namespace has a link that can be cut")
    vms = 4 if group == "drains" or ONLY else 3
    run = Run(kind, folder, vms, {"spares": int(group == "workers")})
    try:
        run.start()
        for scenario in scenarios:
            print(f"{run.look().step:5d} {scenario.__name__}")  # seen when the test fails
            scenario(run)
        run.finish()
        run.check(undisturbed)
    finally:
        run.close()
