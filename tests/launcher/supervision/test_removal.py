"""A run directory that is removed ends its run, and one that comes back does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.supervision.removal import AWAY_FOR, Removal
from tests.launcher.supervision.supervised import Fixture
from trainer.rundir.names import RUN

SAID = "x was removed while the run went on: it has no run.json any more"


def test_it_is_told_at_once_and_sure_after_a_minute() -> None:
    removal = Removal("x")
    assert not removal.look(True, 0.0) and not removal.told
    assert not removal.look(False, 10.0)
    assert removal.told == f"{SAID}; unless it is back within 60 s, the run ends [SW2031]"
    assert removal.look(False, 10.0 + AWAY_FOR)


def test_one_that_comes_back_counts_anew() -> None:
    removal = Removal("x")
    assert not any(removal.look(there, at) for at, there in [(0, True), (10, False), (60, True)])
    assert not removal.told
    assert not removal.look(False, 65.0)
    assert not removal.look(False, 120.0)


@given(st.lists(st.floats(0.0, 1e4)))
def test_what_never_was_there_is_not_removed(times: list[float]) -> None:
    removal = Removal("x")
    assert not any(removal.look(False, at) for at in sorted(times))


@pytest.mark.parametrize("all_of_it", [False, True])
def test_its_run_has_failed_and_its_custom_job_is_cancelled(
    tmp_path: Path, all_of_it: bool
) -> None:
    fixture = Fixture(tmp_path / "run", lambda n: ["RUNNING", gone, *["RUNNING"] * 20])
    fixture.run_dir.write_json(RUN, {"id": "run-1"})

    def gone() -> str:
        if all_of_it:
            shutil.rmtree(tmp_path / "run")
        else:
            fixture.run_dir.store.delete_file(RUN)
        return "RUNNING"

    supervisor = fixture.supervisor()
    outcome = supervisor.run()
    assert not fixture.vertex.alive, "which costs nothing any more"
    supervisor._read_attempts()
    assert len(supervisor.told()) <= 1, "for other threads, at any time"
    assert outcome["state"] == "failed"
    said = SAID.replace("x", fixture.run_dir.url, 1)
    assert outcome["reason"] == f"{said}; launch a new run [SW2031]"
    assert fixture.attempts[0].state == "CANCELLED"
