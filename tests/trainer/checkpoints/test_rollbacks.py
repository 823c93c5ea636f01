"""Going back to an older checkpoint: what is deleted, what is on record, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.manifest import committed_steps
from trainer.checkpoints.restore import Alone
from trainer.checkpoints.rollbacks import FILE, OFTEN, Rollbacks, go_back
from trainer.rundir.directory import RunDirectory


def saved(url: Path, *steps: int) -> RunDirectory:
    run_dir = RunDirectory(str(url))
    checkpointer = Checkpointer(run_dir, 99, lambda event, **fields: None)
    for step in steps:
        assert checkpointer.save({"step": step}, step, wait=True)
    return run_dir


def test_newer_ones_are_gone_in_all_places(tmp_path: Path) -> None:
    one, other = saved(tmp_path / "one", 2, 6), saved(tmp_path / "other", 4, 8)
    assert go_back(one, [one, other], Alone(), failed=9, good=6) == (6, "")
    assert (committed_steps(one), committed_steps(other)) == ([2, 6], [4])
    assert go_back(one, [one, other], Alone(), failed=7, good=5) == (4, "")
    assert (committed_steps(one), committed_steps(other)) == ([2], [4])
    assert Rollbacks.of(one) == Rollbacks((7, 9), {6: 1, 4: 1})


def test_it_is_not_done_for_ever(tmp_path: Path) -> None:
    run_dir = saved(tmp_path, 2)
    for failed in range(OFTEN):
        assert go_back(run_dir, [run_dir], Alone(), 4 + failed, good=2) == (2, "")
    to, why = go_back(run_dir, [run_dir], Alone(), 9, good=2)
    assert to is None and "it has gone back to the checkpoint of step 2 3 times already" in why
    assert 9 not in Rollbacks.of(run_dir).left_out


def test_without_a_good_one_nothing_is_touched(tmp_path: Path) -> None:
    run_dir = saved(tmp_path, 2, 4)
    to, why = go_back(run_dir, [run_dir], Alone(), failed=3, good=1)
    assert (to, why) == (None, "there is no checkpoint that is known to be good")
    assert committed_steps(run_dir) == [2, 4]
    assert Rollbacks.of(run_dir) == Rollbacks()


class Dying(Exception):
    """Stands for the death of the process."""


@pytest.mark.parametrize("survives", range(6))
def test_whoever_dies_in_between_has_a_good_checkpoint_and_can_try_again(
    tmp_path: Path, survives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = saved(tmp_path, 2, 4, 6)
    left = [survives]

    def dying(do: Any) -> Any:
        def done(*args: Any) -> Any:
            if not left[0]:
                raise Dying
            left[0] -= 1
            return do(*args)

        return done

    monkeypatch.setattr(run_dir.store, "delete", dying(run_dir.store.delete))
    monkeypatch.setattr(run_dir.store, "write", dying(run_dir.store.write))
    try:
        go_back(run_dir, [run_dir], Alone(), failed=7, good=2)
    except Dying:
        assert Rollbacks.of(run_dir) == Rollbacks(), "the record comes last"
    assert 2 in committed_steps(run_dir)
    left[0] = 99
    if not Rollbacks.of(run_dir).left_out:
        assert go_back(run_dir, [run_dir], Alone(), failed=7, good=2) == (2, "")
    assert committed_steps(run_dir) == [2]
    assert Rollbacks.of(run_dir) == Rollbacks((7,), {2: 1})


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"left_out": "x"}', b'{"counts": [1]}'])
def test_a_damaged_record_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert Rollbacks.of(RunDirectory(str(tmp_path))) == Rollbacks()
