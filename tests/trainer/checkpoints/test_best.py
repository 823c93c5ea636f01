"""``keep_best``: what is best is never deleted, whenever it was evaluated and whoever dies when."""

from __future__ import annotations

import math
import tempfile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.leftovers import delete
from trainer.checkpoints.manifest import (
    MANIFEST,
    committed_steps,
    folders,
    read_metrics,
    write_metrics,
)
from trainer.checkpoints.retention import Retention
from trainer.rundir.directory import RunDirectory


class Mortal:
    """A store that does only so much before whoever uses it dies; each write and delete counts."""

    def __init__(self, store: Any, lives: float) -> None:
        self._store = store
        self._lives = lives

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in ("write", "create", "delete"):
            return found

        def mortal(*args: Any) -> Any:
            if self._lives < 1:
                raise OSError("dead")
            self._lives -= 1
            return found(*args)

        return mortal


def metrics_of(run_dir: RunDirectory) -> dict[int, dict[str, Any]]:
    """The metrics of each checkpoint that there is."""
    found = folders(run_dir)
    return {
        step: read_metrics(run_dir, step, names)
        for step, names in found.items()
        if MANIFEST in names
    }


scores = st.lists(
    st.tuples(
        st.sampled_from([0.1, 0.2, 0.5, 0.9, math.nan, None]),  # None: it was not evaluated
        st.booleans(),  # whether before it was saved
        st.booleans(),  # whether by a process that has just started
    ),
    min_size=1,
    max_size=7,
)


@given(history=scores, lives=st.integers(0, 60), keep=st.integers(1, 2))
@settings(max_examples=60)
def test_the_best_that_was_ever_there_is_there(
    history: list[tuple[float | None, bool, bool]], lives: int, keep: int
) -> None:
    """One rank saves and evaluates; it dies after so many operations on the store."""
    with tempfile.TemporaryDirectory() as url:
        run_dir = RunDirectory(url)
        store = run_dir.store
        run_dir.store = Mortal(store, lives)  # type: ignore[assignment]
        best, told = -math.inf, False
        checkpointer: Checkpointer | None = None
        for step, (score, before, started) in enumerate(history, 1):
            if checkpointer is None or started:
                checkpointer = Checkpointer(
                    run_dir, Retention(keep, best="score"), lambda event, **fields: None
                )
            checkpointer.good = step - 1
            metrics = {} if score is None else {"score": score}
            about = {"metrics": metrics if before else {}}
            checkpointer.save({"step": step}, step, about=about, wait=True)
            if metrics and not before:
                checkpointer.evaluated(step, metrics)
            there = metrics_of(RunDirectory(url))
            values = [one["score"] for one in there.values() if "score" in one]
            values = [one for one in values if one != "nan"]
            assert not told or best in values, "it was there, and is gone"
            best, told = max([best, *values]), told or bool(values)
        newest = max(committed_steps(RunDirectory(url)), default=0)
        assert newest == len(history) or lives < 60


def test_metrics_of_a_checkpoint_that_was_here_before_are_not_this_ones(tmp_path: Any) -> None:
    """The run has gone back, and its process died while it deleted what came after."""
    run_dir = RunDirectory(str(tmp_path))
    checkpointer = Checkpointer(run_dir, Retention(best="score"), lambda event, **fields: None)
    checkpointer.save({}, 3, world="1-1", wait=True)
    checkpointer.evaluated(3, {"score": 0.9})
    run_dir.store.delete("checkpoints/step-000000003/manifest.json")
    checkpointer.save({}, 3, world="1-2", wait=True)
    assert read_metrics(run_dir, 3, folders(run_dir)[3]) == {}
    write_metrics(run_dir, 3, "1-2-w1", {"score": 0.1})
    assert read_metrics(run_dir, 3, folders(run_dir)[3]) == {"score": 0.1}
    delete(run_dir, 3)
    assert read_metrics(run_dir, 3, []) == {}


def test_what_was_not_begun_here_is_not_told(tmp_path: Any) -> None:
    run_dir = RunDirectory(str(tmp_path))
    checkpointer = Checkpointer(run_dir, 1, lambda event, **fields: None)
    assert not checkpointer.evaluated(3, {"score": 0.9})
    checkpointer.save({}, 3, wait=True)
    assert not checkpointer.evaluated(4, {"score": 0.9})
    assert checkpointer.evaluated(3, {"score": 0.9})
