"""Whatever happens to the VMs of a run, it ends well and loses nothing.

The scenarios of one group share a run, because starting workers is what takes time. One alone,
in a run of its own; and those that are much like another, and every group on both kinds of VM:

    CHAOS_ONLY=worker_hangs pytest tests/chaos/test_scenarios.py
    pytest -m soak tests/chaos          (part of make soak)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from launcher.emulator.vms import netns
from tests.chaos import leaders, scenarios
from tests.chaos.run import Run, Undisturbed

MISSING = netns.missing()
NETNS = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
# Where namespaces can be had, processes show little more: those of integration are VMs, too.
PROCESS = [] if MISSING else [pytest.mark.soak]
ONLY = os.environ.get("CHAOS_ONLY")
VARIANTS = {"variants": scenarios.VARIANTS, "leaders' variants": leaders.VARIANTS}
GROUPS = {**scenarios.GROUPS, **leaders.GROUPS, **VARIANTS}
NEEDS_LINK = (*scenarios.NEEDS_LINK, *leaders.NEEDS_LINK)
HOUR = 3600.0  # seconds


def cases() -> Iterator[Any]:
    """The kind of VM, and the name of the scenario or of the group."""
    for name in [ONLY] if ONLY else GROUPS:
        soak = [pytest.mark.soak] if name in VARIANTS else []
        yield pytest.param("netns", name, marks=[NETNS, *soak])
        yield pytest.param("process", name, marks=[] if ONLY else [*PROCESS, *soak])


@pytest.mark.timeout(1800)  # five stories, on a machine that is busy
@pytest.mark.parametrize("kind, name", list(cases()))
def test_a_run_survives(kind: str, name: str, folder: Path, undisturbed: Undisturbed) -> None:
    alone = tuple(one for group in GROUPS.values() for one in group if one.__name__ == name)
    assert name in GROUPS or alone, f"no scenario is called {name}"
    chosen = [one for one in GROUPS.get(name, alone) if kind == "netns" or one not in NEEDS_LINK]
    if not chosen:
        pytest.skip("only a network namespace has a link that can be cut")
    # Workers that crash are replaced by warm spares; where VMs come and go, spares only cost time.
    settings: dict[str, Any] = {"spares": int(name in ("workers", "variants"))}
    clocks: tuple[float, ...] = ()
    if chosen[0] in chain(*leaders.GROUPS.values(), leaders.VARIANTS):
        settings["checkpoint"] = {"every": 2.0}
        clocks = (HOUR, -HOUR, 0.0, HOUR / 2)  # who leads must not depend on them
    # One of them with agents as they start everywhere else: they start their nurseries, too.
    fresh = kind == "process" and name == "workers"
    run = Run(kind, folder, vms=4, settings=settings, clocks=clocks, fresh=fresh)
    try:
        run.start()
        for scenario in chosen:
            print(f"{run.look().step:5d} {scenario.__name__}")  # seen when the test fails
            scenario(run)
        run.finish()
        run.check(undisturbed)
    finally:
        run.close()
