"""A world that is over, and does not know it, commits no checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.manifest import committed_steps
from trainer.protocol.lease import Claim, create_claim, renew_claim
from trainer.rundir.directory import RunDirectory


@pytest.mark.parametrize(
    "term, generation, commits",
    [
        (3, 7, True),  # its leader leads
        (3, 9, True),  # and has formed others since: what was begun is completed
        (4, 7, True),  # another leader has taken the world over
        (4, 8, False),  # and has formed another one
    ],
)
def test_a_later_leaders_world_ends_the_commits_of_an_earlier_ones(
    tmp_path: Path, term: int, generation: int, commits: bool
) -> None:
    run_dir = RunDirectory(str(tmp_path))
    create_claim(run_dir, Claim(3, "a#1", "t"))
    renew_claim(run_dir, Claim(3, "a#1", "t", generation=7, counter=1))
    if term > 3:
        create_claim(run_dir, Claim(term, "b#1", "t", generation=6))  # as it was known before
    renew_claim(run_dir, Claim(term, "b#1", "t", generation=generation, counter=2))
    told: list[tuple[str, dict[str, Any]]] = []
    checkpointer = Checkpointer(run_dir, 2, lambda event, **fields: told.append((event, fields)))
    checkpointer.save({"w": torch.ones(3)}, 20, world="000003-000007", wait=True)
    checkpointer.flush()
    assert committed_steps(run_dir) == ([20] if commits else [])
    if not commits:
        ((event, fields),) = told
        assert event == "checkpoint_failed"
        assert fields["reason"] == "a later leader has formed another world"


def test_who_trains_alone_has_no_leader(tmp_path: Path) -> None:
    run_dir = RunDirectory(str(tmp_path))
    create_claim(run_dir, Claim(3, "a#1", "t", generation=7))
    Checkpointer(run_dir, 2, lambda event, **fields: None).save({"w": torch.ones(3)}, 1, wait=True)
    assert committed_steps(run_dir) == [1]
