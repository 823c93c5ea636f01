"""Checkpoints of a script's hvd.elastic state: what is in one, and what begins from one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from tests.trainer.ranks import alone
from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.manifest import committed_steps, read_manifest
from trainer.protocol.session import CheckpointSettings, Session
from trainer.rundir.directory import RunDirectory


def scripted(
    url: str, rounds: int, start_from: str = "", values: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A script that keeps its state. Returns where it began and what it held at its end."""
    from trainer.protocol.channel import LoneChannel
    from trainer.worker.horovod_hooks import Hooks

    settings = CheckpointSettings(every=0.0, every_steps=2, keep=9, start_from=start_from)
    os.environ.update(Session(run_dir_url=url, checkpoint=settings).to_env())
    hooks = Hooks(LoneChannel())
    hooks.install()
    import horovod.torch as hvd

    hvd.init()
    torch.manual_seed(rounds)  # each process begins with a model of its own
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    began: list[tuple[int, list[float]]] = []

    @hvd.elastic.run  # type: ignore[untyped-decorator]
    def train(state: Any) -> None:
        began.append((state.epoch, model.weight.flatten().tolist()))
        while state.epoch < rounds:
            optimizer.zero_grad()
            model(torch.ones(2, 4)).square().mean().backward()
            optimizer.step()
            state.epoch += 1
            state.commit()

    values = {"epoch": 0, "accuracy": 0.5, **(values or {})}
    state = hvd.elastic.TorchState(model=model, optimizer=optimizer, **values)
    hooks.keep(state)
    try:
        train(state)
    except ValueError as error:
        return {"error": str(error)}
    hooks.end()
    steps = {int(one["step"]) for one in optimizer.state_dict()["state"].values()}
    return {
        "began": began,
        "weight": model.weight.flatten().tolist(),
        "optimizer": steps,
        "accuracy": state.accuracy,
    }


def test_a_script_begins_where_the_newest_checkpoint_is(tmp_path: Path) -> None:
    first = alone(scripted, str(tmp_path), 5, "", {"accuracy": 0.75})
    assert {2, 5} <= {*committed_steps(RunDirectory(str(tmp_path)))}, "at commits, and at its end"
    second = alone(scripted, str(tmp_path), 8)
    assert second["began"] == [(5, first["weight"])]
    assert (second["optimizer"], second["accuracy"]) == ({8}, 0.75)


def test_another_run_begins_from_it_or_from_its_weights_alone(tmp_path: Path) -> None:
    first = alone(scripted, str(tmp_path / "first"), 4)
    start = f"{tmp_path}/first/checkpoints/step-000000004"
    other = alone(scripted, str(tmp_path / "other"), 5, start)
    assert (other["began"], other["optimizer"]) == ([(4, first["weight"])], {5})
    tuned = alone(scripted, str(tmp_path / "tuned"), 3, f"{start}#weights", {"more": 1})
    assert (tuned["began"], tuned["optimizer"]) == ([(0, first["weight"])], {3})


def test_numbers_that_it_commits_are_the_metrics_of_a_checkpoint(tmp_path: Path) -> None:
    """``keep_best`` goes by them; there is no other way for a script to say what is best."""
    values = {"names": ["a"], "best": True, "worst": float("nan")}
    alone(scripted, str(tmp_path), 3, "", values)
    about = read_manifest(RunDirectory(str(tmp_path)), 3).about
    assert about["metrics"] == {"epoch": 3, "accuracy": 0.5, "worst": "nan"}
    assert (about["epoch"], about["generation"]) == (3, 1)


def test_a_state_of_other_parts_is_refused(tmp_path: Path) -> None:
    alone(scripted, str(tmp_path), 2)
    refused = alone(scripted, str(tmp_path), 3, "", {"more": 1})
    assert refused["error"] == "the checkpoint and this script's state differ in ['more']"


def test_what_is_no_scripts_state_is_refused(tmp_path: Path) -> None:
    run_dir = RunDirectory(str(tmp_path))
    Checkpointer(run_dir, 1, lambda event, **fields: None).save([1, 2], 6, wait=True)
    refused = alone(scripted, str(tmp_path), 3)
    assert refused["error"] == "the checkpoint of step 6 does not hold a script's state"


def kept(*states: Any) -> str:
    from horovod.common.elastic import ObjectState

    from trainer.worker.script_state import ScriptState

    script = ScriptState()
    try:
        for state in states:
            made = ObjectState(lambda value: value, lambda: 0, **state) if state else state
            script.keep(made)
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_one_state_is_kept() -> None:
    assert alone(kept, {"epoch": 0}) == "nothing"
    assert alone(kept, {}) == "TypeError: a dict is not a state of hvd.elastic"
    twice = alone(kept, {"epoch": 0}, {"epoch": 1})
    assert twice == "ValueError: a run has the checkpoints of one state; this is a second one"
