"""A checkpoint's metrics are those of its own weights, wherever the program evaluates."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.engine.loops import trained
from trainer.checkpoints.manifest import MANIFEST, folders, read_metrics
from trainer.checkpoints.restore import Alone, load
from trainer.protocol.session import CheckpointSettings, Session
from trainer.rundir.directory import RunDirectory

SCORES = {2: 0.9, 4: math.nan, 5: 0.6, 6: 0.4}  # after these steps it evaluates


class Evaluated:
    """A loop of six steps whose model counts them; it reports the score of the state's step.

    Args:
        where: ``after`` the block, in the block after the ``update``, ``before`` the next block,
            or after the ``loop``.
        every: steps between two checkpoints.
    """

    def __init__(self, url: str, where: str, every: int) -> None:
        self.url, self.where, self.every = url, where, every

    def __call__(self, log: list[Any]) -> None:
        from trainer import elastic

        settings = CheckpointSettings(every=0.0, every_steps=self.every, keep_best="score", keep=1)
        os.environ.update(Session(self.url, f"w-{os.getpid()}", checkpoint=settings).to_env())
        weight = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(weight.weight)
        optimizer = torch.optim.SGD(weight.parameters(), lr=1.0)

        def report(step: int, rank: int) -> None:
            if rank == 0 and step in SCORES:
                assert round(weight.weight.item()) == step
                elastic.report(score=SCORES[step])

        state = elastic.State(model=weight, optimizer=optimizer)
        number = 0
        for step in elastic.steps(state, total=6):
            if self.where == "before" and step.number > 1:
                report(step.number - 1, step.rank)
            with step:
                (-weight(torch.ones(1)).sum() / step.size).backward()
                optimizer.step()
                optimizer.zero_grad()
                if self.where == "update":
                    report(step.number, step.rank)
            if self.where == "after":
                report(step.number, step.rank)
            elastic.running()._saving._checkpointer.flush()  # type: ignore[union-attr]
            number = step.number
        if self.where in ("before", "loop"):
            report(number, 0)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("every", [1, 4, 100])
@pytest.mark.parametrize("where", ["after", "update", "before", "loop"])
def test_the_best_is_the_one_that_was_evaluated(
    tmp_path: Path, where: str, every: int, size: int
) -> None:
    outcomes = trained(size, Evaluated(str(tmp_path), where, every))
    assert [one.error for one in outcomes] == [""] * size
    run_dir = RunDirectory(str(tmp_path))
    found = {}
    for step, names in folders(run_dir).items():
        assert MANIFEST in names
        tree: Any = load(run_dir, step, lambda *_, **__: None, Alone(), torch.device("cpu"))
        assert round(tree["parts"]["model"]["weight"].item()) == step == tree["step"]
        found[step] = read_metrics(run_dir, step, names)
    wanted: dict[int, dict[str, Any]] = {2: {"score": 0.9}, 6: {"score": 0.4}}
    if where == "loop":  # nothing else was evaluated
        del wanted[2]
    assert found == wanted


class ToldInParts:
    """A loop that says two numbers of a state, in two calls, and what it goes by first."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, log: list[Any]) -> None:
        from trainer import elastic

        settings = CheckpointSettings(every=0.0, every_steps=3, keep_best="score", keep=1)
        os.environ.update(Session(self.url, f"w-{os.getpid()}", checkpoint=settings).to_env())
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        state = elastic.State(model=model, optimizer=optimizer)
        for step in elastic.steps(state, total=6):
            with step:
                (model(torch.ones(1)).sum() / step.size).backward()
                optimizer.step()
                optimizer.zero_grad()
            if step.number in SCORES:
                elastic.report(score=SCORES[step.number])
                elastic.report(others=float(step.number))
            elastic.running()._saving._checkpointer.flush()  # type: ignore[union-attr]
        log.append(elastic.running().results)  # type: ignore[union-attr]


def test_what_is_reported_of_one_state_in_parts_counts_together(tmp_path: Path) -> None:
    (outcome,) = trained(1, ToldInParts(str(tmp_path)))
    assert (outcome.error, outcome.log) == ("", [{"score": 0.4, "others": 6.0}])
    run_dir = RunDirectory(str(tmp_path))
    found = {step: read_metrics(run_dir, step, names) for step, names in folders(run_dir).items()}
    assert found == {2: {"score": 0.9, "others": 2.0}, 6: {"score": 0.4, "others": 6.0}}
