"""Scripts under ``swell launch``: unmodified Horovod ones, elastic and plain, and an own loop."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.integration.command import ROOT, Swell, until
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import read_events

SCRIPTS = Path(__file__).parent / "horovod_scripts"
TWO = "[a2-highgpu-1g, a2-highgpu-1g]"


def launched(
    swell: Swell,
    script: Path,
    args: list[str],
    market: list[dict[str, str]],
    *,
    pools: str = "[{machine: a2-highgpu-1g}, {machine: a2-highgpu-1g, replicas: 2}]",
    elastic: str = "min_workers: 1, spares: 0, suspicion: 5s",
    audit: bool = False,
    more: str = "",
) -> tuple[dict[str, Any], list[str]]:
    """Runs a script to its success. Returns the run's status and what was printed."""
    job = swell.folder / "job.yaml"
    job.write_text(
        f"name: script\nscript: {script}\nargs: {json.dumps(args)}\n"
        f"pools: {pools}\n"
        f"elastic: {{{elastic}}}\naudit: {str(audit).lower()}\n"
        f"{more}local: {{market: {json.dumps(market)}}}\n"
    )
    launch = swell("launch", str(job), "--run-id", "one")
    logs = swell("logs", "one").stdout.splitlines()
    assert launch.returncode == 0, "\n".join([launch.stdout, launch.stderr, *logs])
    status = swell.status("one")
    assert status["state"] == "succeeded", status["reason"]
    until(swell.nothing_is_left)
    return status, [line.partition(" ")[2].partition(" ")[2] for line in logs]


def said(logs: list[str], pattern: str) -> list[re.Match[str]]:
    return [found for line in logs if (found := re.fullmatch(pattern, line))]


def test_an_elastic_script_lives_through_a_drain_a_loss_and_a_rejoin(swell: Swell) -> None:
    market = [
        {"at": "15 steps", "preempt": "workerpool1-0", "notice": "15s", "back": "2s"},
        {"at": "50 steps", "vanish": "workerpool1-1"},
    ]
    args = ["--epochs", "4", "--pause", "0.05"]
    elastic = "min_workers: 2, spares: 0, suspicion: 5s"  # so it cannot end before the rejoin
    script = SCRIPTS / "elastic_digits.py"
    status, logs = launched(swell, script, args, market, elastic=elastic)
    epochs = said(logs, r"epoch (\d+) loss (\S+) size (\d+)")
    assert [int(one[1]) for one in epochs] == [0, 1, 2, 3], "each is told of once"
    losses = [float(one[2]) for one in epochs]
    assert losses[-1] < losses[0] / 2
    assert said(logs, "trained 4 epochs")
    assert (status["drains"], status["losses"]) == (1, 1)
    causes = [generation["cause"] for generation in status["generations"]]
    assert causes[0] == "start" and {"drain", "loss"} <= {*causes}
    sizes = [one["world_size"] for one in status["generations"]]
    assert sizes[:2] == [3, 2] and sizes[-1] == 2, "of three, one came back and one did not"


def test_an_object_state_counts_on_and_its_callbacks_are_called(swell: Swell) -> None:
    """Also after one rank has raised: as in Horovod, the others go on without it."""
    market = [{"at": "20 steps", "preempt": "workerpool1-0", "notice": "15s", "back": "2s"}]
    args = ["250", str(swell.folder / "raised")]
    _, logs = launched(swell, SCRIPTS / "object_state.py", args, market, pools=TWO)
    (counted,) = said(logs, r"counted 250 rounds after (\d+) resets")
    resets = said(logs, r"reset: size (\d)")
    assert int(counted[1]) >= 1
    assert "1" in {one[1] for one in resets}
    assert said(logs, "ConnectionResetError: this machine's line to its data")
    events = read_events(RunDirectory(str(swell.run_dir("one"))))
    assert [one["whose"] for one in events if one["event"] == "fault"] == ["script"]


def test_a_plain_script_waits_for_the_full_world_and_goes_on_from_its_own_checkpoint(
    swell: Swell,
) -> None:
    market = [{"at": "50 steps", "vanish": "workerpool1-0", "back": "2s"}]
    args = [str(swell.folder), "4"]
    status, logs = launched(swell, SCRIPTS / "plain_digits.py", args, market, pools=TWO)
    begun = said(logs, r"rank (\d) of (\d) begins at epoch (\d)")
    assert {one[2] for one in begun} == {"2"}, "never in a smaller world"
    assert int(begun[0][3]) == 0
    assert max(int(one[3]) for one in begun) >= 1, "its own checkpoint was there"
    epochs = [int(one[1]) for one in said(logs, r"epoch (\d) loss \S+")]
    assert epochs[-1] == 3 and {*epochs} == {0, 1, 2, 3}
    assert status["losses"] >= 1


@pytest.mark.soak
def test_an_own_loop_loses_no_step_and_no_sample(swell: Swell) -> None:
    market = [
        {"at": "30 steps", "preempt": "workerpool1-0", "notice": "15s", "back": "60s"},
        {"at": "100 steps", "vanish": "workerpool1-1", "back": "60s"},
    ]
    script = ROOT / "examples" / "own_loop.py"
    status, logs = launched(swell, script, ["--epochs", "8"], market, audit=True)
    assert status["step"] == 8 * 23
    assert status["steps_lost"] == 0
    assert [epoch["exactly_once"] for epoch in status["epochs"]] == [True] * 8
    epochs = said(logs, r"epoch (\d): loss (\S+), accuracy (\S+)")
    assert [int(one[1]) for one in epochs] == list(range(8))
    assert float(epochs[-1][2]) < float(epochs[0][2]) / 4
    assert len(said(logs, r"the best accuracy was \S+")) == 1, "rank 0 alone goes on after the loop"
    assert status["metrics"]["test_accuracy"] > 0.85


def test_a_script_that_raises_ends_the_run_with_its_traceback(swell: Swell) -> None:
    script = swell.folder / "broken.py"
    script.write_text(
        "import horovod.torch as hvd\nhvd.init()\n"
        "raise RuntimeError('the user divided by pear in %d' % hvd.size())\n"
    )
    job = swell.folder / "job.yaml"
    job.write_text(f"name: broken\nscript: {script}\npools: [{{machine: a2-highgpu-1g}}]\n")
    launch = swell("launch", str(job), "--run-id", "one")
    assert launch.returncode == 1
    assert "RuntimeError: the user divided by pear in 1" in launch.stdout + launch.stderr
    until(swell.nothing_is_left)


def test_a_script_that_trains_nothing_together_is_told_so(swell: Swell) -> None:
    script = swell.folder / "alone.py"
    script.write_text("print('all by myself')\n")
    job = swell.folder / "job.yaml"
    job.write_text(f"name: alone\nscript: {script}\npools: [{{machine: a2-highgpu-1g}}]\n")
    launch = swell("launch", str(job), "--run-id", "one")
    assert launch.returncode == 1
    assert "neither hvd.init(), nor elastic.steps(), nor fit()" in launch.stdout + launch.stderr
    until(swell.nothing_is_left)


def test_a_horovod_script_that_checkpoints_its_commits_survives_the_loss_of_everything(
    swell: Swell,
) -> None:
    market = [{"at": "40 steps", "vanish": "workerpool0-0", "back": "2s"}]
    script, args = ROOT / "examples" / "horovod_elastic.py", ["--epochs", "10"]
    more = "checkpoint: {every: 10 steps, keep: 99}\n"
    pools = "[a2-highgpu-2g]"  # with both workers
    status, logs = launched(swell, script, args, market, pools=pools, more=more)
    begins = said(logs, r"begins in epoch (\d+) after (\d+) batches")
    assert (begins[0][1], begins[0][2]) == ("0", "0")
    # A commit at the end of an epoch counts as a step, too. One that comes later begins, too.
    again = [int(one[1]) + int(one[2]) for one in begins[1:]]
    assert min(again) >= 10, "nobody began anew"
    # Whose market looks late loses everything at the end, and is told the same of it again.
    (trained,) = {one[1] for one in said(logs, r"trained 10 epochs in (\d+) batches")}
    assert status["checkpoint"]["step"] == 10 + int(trained), "the last state is saved, too"
    listed = json.loads(swell("checkpoints", "one", "--verify", "--json").stdout)
    assert [row["valid"] for row in listed] == [True] * len(listed)
    assert {row["step"] for row in listed} & {*again}, "from a checkpoint"
