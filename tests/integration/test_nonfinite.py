"""Runs in which something is no number, as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.integration.command import Swell

JOB = """
name: line
script: train.py
code: .
pools: {pools}
elastic: {{spares: 0}}
audit: true
checkpoint: {{every: 2 steps, keep: 1, keep_best: accuracy}}
{more}
"""
# After each epoch of eight steps it reports an accuracy; the samples of step 12 are no numbers.
LOOP = """
import torch
from trainer import elastic
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
state = elastic.State(model=model, optimizer=optimizer)
scores = [float("nan"), 0.9, 0.5, 0.4]
x = torch.randn(64, 4)
for step in elastic.steps(state, elastic.batches(64, 8), epochs=4):
    with step:
        loss = model(x[step.indices]).square().sum() / step.batch_size
        if step.number == 12 and step.rank == step.size - 1:
            loss = loss * float("nan")
        step.add(loss=loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    elastic.running()._saving._checkpointer.flush()
    if step.epoch_done:
        elastic.report(accuracy=scores[step.epoch])
"""


def written(folder: Path, loop: str, pools: str, more: str) -> str:
    (folder / "train.py").write_text(loop)
    job = folder / "job.yaml"
    job.write_text(JOB.format(pools=pools, more=more))
    return str(job)


def require_json(run_dir: Path) -> None:
    """Everything in a run directory is JSON for a reader that takes it by its word."""

    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    found = [*run_dir.rglob("*.json"), *run_dir.rglob("*.jsonl")]
    for path in (one for one in found if not one.name.startswith(".spare-")):
        text = path.read_text()
        for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
            json.loads(part, parse_constant=refuse)


def test_a_run_goes_back_leaves_a_step_out_and_keeps_the_best(swell: Swell) -> None:
    job = written(swell.folder, LOOP, "[a2-highgpu-2g]", "on_nonfinite: rollback")
    launch = swell("launch", job, "--run-id", "back")
    assert launch.returncode == 0, launch.stdout + launch.stderr
    said = launch.stdout.splitlines()
    assert any(
        line.endswith("step 12: the loss is nan on rank 1: back to the checkpoint of step 10")
        for line in said
    )
    status = swell.status("back")
    assert (status["step"], status["steps_left_out"], status["steps_lost"]) == (32, 1, 1)
    assert [one["step"] for one in status["generations"]] == [0, 10]
    assert (status["samples_repeated"], status["samples_skipped"]) == (0, 0)
    assert status["samples_left_out"] == 8
    assert [one["exactly_once"] for one in status["epochs"]] == [True, False, True, True]
    assert (status["metrics"]["accuracy"], status["nonfinite"]) == (0.4, {})
    rows = json.loads(swell("checkpoints", "back", "--json").stdout)
    found = [(row["step"], row["metrics"], row["best"]) for row in rows]
    assert found == [(16, {"accuracy": 0.9}, True), (32, {"accuracy": 0.4}, False)]
    require_json(swell.run_dir("back"))


def test_a_loss_that_is_no_number_ends_the_run_and_says_since_when(swell: Swell) -> None:
    loop = LOOP.replace("lr=0.01", "lr=1e6").replace("scores[step.epoch]", "0.5")
    launch = swell("launch", written(swell.folder, loop, "[a2-highgpu-1g]", ""), "--run-id", "nan")
    assert launch.returncode == 1
    status = swell.status("nan")
    assert status["state"] == "failed" and status["metrics"]["loss"] in ("inf", "nan")
    since = status["nonfinite"]["loss"]
    assert status["step"] == since - 1
    assert f"(since step {since})" in launch.stdout
    (line,) = (one for one in status["reason"].splitlines() if one.startswith(f"step {since}: "))
    assert "on_nonfinite is stop; the newest good checkpoint is " in line and "[SW5129]" in line
    good = line.partition("the newest good checkpoint is ")[2].partition(";")[0]
    assert (Path(good) / "manifest.json").exists()
    require_json(swell.run_dir("nan"))
