"""Random events, one upon the other, from a seed that is printed.

CHAOS_SEED=7 CHAOS_EVENTS=50 pytest tests/chaos/test_storm.py      (make storm)
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.run import Run, Undisturbed
from tests.chaos.storm import BACK, CRASHES, Storm, plan
from tests.chaos.task import EPOCHS
from tests.chaos.test_scenarios import NETNS, PROCESS

SEED = int(os.environ.get("CHAOS_SEED", "1"))
EVENTS = int(os.environ.get("CHAOS_EVENTS", "6"))


@given(st.integers(0, 2**32), st.integers(1, 60), st.booleans())
def test_a_plan_takes_and_gives_back(seed: int, events: int, has_link: bool) -> None:
    blows = plan(seed, events, 3, has_link)
    assert len(blows) == events
    assert blows == plan(seed, events, 3, has_link)
    away: dict[int, str] = {}
    for blow in blows:
        if blow.vm in away:
            assert blow.what == away.pop(blow.vm)
        elif blow.what in BACK or blow.what == "kill agent":
            away[blow.vm] = BACK.get(blow.what, "start")
        else:
            assert blow.what in CRASHES
        assert len(away) < 3, "somebody is always there"
    assert not away


@pytest.mark.timeout(60 + 60 * EVENTS)
@pytest.mark.parametrize(
    "kind", [pytest.param("netns", marks=NETNS), pytest.param("process", marks=PROCESS)]
)
def test_a_run_survives_a_storm(kind: str, folder: Path, undisturbed: Undisturbed) -> None:
    print(f"CHAOS_SEED={SEED} CHAOS_EVENTS={EVENTS}")  # seen when the test fails
    task = {"epochs": max(EPOCHS, EVENTS)}
    run = Run(kind, folder, settings={"spares": 1}, task=task)
    try:
        run.start()
        storm = Storm(run)
        blows = plan(SEED, EVENTS, 3, has_link=kind == "netns")
        assert len(blows) == EVENTS
        for blow in blows:
            print(f"{run.look().step:5d} {blow}")
            storm.blow(blow)
        run.until_steps(25)  # what was known before may be long past
        run.until_world(*run.everybody)
        run.finish()
        run.check(undisturbed)
    finally:
        run.close()
