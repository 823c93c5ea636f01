"""``swell checkpoints``: what is there, with its metrics, and which is the best."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher import home
from launcher.views.checkpoints import _save, list_checkpoints, print_checkpoints
from launcher.views.output import Screen
from tests.launcher.recorded_run import SPEC
from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.manifest import METRICS, committed_steps, folder_of
from trainer.checkpoints.retention import Retention
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory

Scores = dict[int, Any]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))


def run(checkpoint: dict[str, Any]) -> RunDirectory:
    """A run whose job has this ``checkpoint``."""
    directory = home.directory_for("one", None)
    record = {"id": "one", "target": "local", "created": 1e9, "by": "x@elsewhere"}
    record |= {"spec": {**SPEC, "checkpoint": checkpoint}, **formats.RUN.stamp()}
    home.create(directory, record)
    return directory


def saves(directory: RunDirectory, scores: Scores, late: bool = False, best: str = "") -> None:
    """A worker saves these steps, evaluated before that, or only after it."""
    retention = Retention(9 if not best else 1, best=best)
    checkpointer = Checkpointer(directory, retention, lambda event, **fields: None)
    for step, score in scores.items():
        metrics = {} if score is None else {"score": score}
        checkpointer.save({}, step, about={"metrics": {} if late else metrics}, wait=True)
        if late and metrics:
            checkpointer.evaluated(step, metrics)
    checkpointer.tidy()


def best_of(directory: RunDirectory) -> list[int]:
    return [row["step"] for row in list_checkpoints(directory, False) if row["best"]]


NAN = float("nan")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "keep_best, scores, best",
    [
        ("score", {1: 0.2, 2: 0.9, 3: 0.5}, [2]),
        ("-score", {1: 0.2, 2: 0.9, 3: 0.5}, [1]),
        ("score", {1: NAN, 2: float("inf"), 3: 0.5, 4: None}, [3]),
        ("-score", {1: float("-inf"), 2: 0.4, 3: 0.4}, [3]),
        ("score", {1: NAN}, []),
        ("other", {1: 0.2}, []),
        ("", {1: 0.2}, []),
    ],
)
def test_the_best_is_the_one_that_the_workers_keep(
    keep_best: str, scores: Scores, best: list[int], late: bool
) -> None:
    directory = run({"keep_best": keep_best})
    saves(directory, scores, late)
    assert best_of(directory) == best
    rows = json.loads(json.dumps(list_checkpoints(directory, False), allow_nan=False))
    told = {row["step"]: {name: str(one) for name, one in row["metrics"].items()} for row in rows}
    assert told == {s: {} if one is None else {"score": str(one)} for s, one in scores.items()}
    if keep_best:
        saves(directory, {9: None}, best=keep_best)
        assert committed_steps(directory) == [*best, 9]
        assert best_of(directory) == best


def test_what_is_damaged_is_not_the_best(tmp_path: Path) -> None:
    directory = run({"keep_best": "score"})
    saves(directory, {1: 0.5, 2: 0.9})
    directory.store.write(f"{folder_of(2)}/manifest.json", b"{")
    assert best_of(directory) == [1]
    directory.store.write(f"{folder_of(1)}/{METRICS}", b"{")
    (row, _) = list_checkpoints(directory, False)
    assert (row["best"], row["valid"]) == (True, None), "its state is as good as it was"


def test_the_table_has_metrics_where_there_are_some() -> None:
    def shown() -> list[str]:
        file = io.StringIO()
        print_checkpoints(Screen(file, width=100), list_checkpoints(directory, False))
        return [line.rstrip() for line in file.getvalue().splitlines()]

    directory = run({"keep_best": "-loss"})
    saves(directory, {1: None})
    assert shown()[0].split() == ["step", "size", "age", "written", "by", "valid"]
    checkpointer = Checkpointer(directory, 9, lambda event, **fields: None)
    about = {"metrics": {"loss": 0.25, "accuracy": NAN}}
    checkpointer.save({}, 2, about=about, wait=True)
    assert shown()[0].endswith("metrics")
    assert shown()[2].endswith("accuracy nan, loss 0.25 (the best)")


def test_a_run_of_another_version_has_no_best() -> None:
    directory = run({"keep_best": ["a", "form", "of", "its", "own"]})
    saves(directory, {1: 0.5})
    assert best_of(directory) == []


def test_what_cannot_be_written_is_told_as_of_any_file(tmp_path: Path) -> None:
    """safetensors has an error of its own, of which no command knows."""
    path = tmp_path / "nowhere" / "m.safetensors"
    with pytest.raises(OSError, match=f"^{path} cannot be written: .*No such file"):
        _save({"a": torch.zeros(2)}, path)
