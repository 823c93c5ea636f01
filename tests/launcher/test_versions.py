"""Runs of other versions: older ones can be shown and exported, newer ones are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from launcher import home
from launcher.cli import app
from launcher.draft import create, prepare
from launcher.job.job import Job
from launcher.status.history import History
from launcher.status.status import build_status
from launcher.words import line_of
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import RUN

OLD = Path(__file__).parents[1] / "data/runs/format-1"
UPDATE = "update Swell on this machine"


@pytest.fixture(autouse=True)
def swell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWELL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def swell(*arguments: str) -> Result:
    answer = CliRunner().invoke(app, arguments)
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer


# --- an older run -----------------------------------------------------------------


@pytest.fixture
def old(swell_home: Path) -> RunDirectory:
    """A run of before there were formats, in a place of its own that the index knows."""
    place = swell_home.parent / "elsewhere/old-1"
    shutil.copytree(OLD, place)
    (swell_home / "index").mkdir(parents=True)
    entry = {"id": "old-1", "url": str(place), "target": "local"}
    (swell_home / "index/old-1.json").write_text(json.dumps(entry))
    return RunDirectory(str(place))


def test_an_older_run_is_shown(old: RunDirectory) -> None:
    status = json.loads(swell("status", "old-1", "--json").stdout)
    assert (status["state"], status["step"], status["reason"]) == (
        "succeeded",
        92,
        "training is complete",
    )
    generations = [(one["world_size"], one["cause"]) for one in status["generations"]]
    assert generations == [(3, "start"), (2, "drain")]
    assert (status["drains"], status["losses"], status["steps_lost"]) == (1, 0, 0)
    assert (status["samples_repeated"], status["samples_skipped"]) == (0, 0)
    assert status["checkpoint"]["step"] == 92
    assert status["metrics"]["test_accuracy"] == pytest.approx(0.8722, abs=1e-4)
    assert "succeeded" in swell("status", "old-1").stdout


def test_an_older_run_is_listed(old: RunDirectory) -> None:
    (row,) = json.loads(swell("runs", "--json").stdout)
    assert (row["run"], row["state"], row["step"], row["url"]) == (
        "old-1",
        "succeeded",
        92,
        old.url,
    )


def test_an_older_runs_leaders_have_terms(old: RunDirectory) -> None:
    assert (old.outcome() or {})["term"] == 1


def test_an_older_runs_checkpoints_are_verified(old: RunDirectory) -> None:
    answer = swell("checkpoints", "old-1", "--verify", "--json")
    assert answer.exit_code == 0
    rows = [(row["step"], row["valid"]) for row in json.loads(answer.stdout)]
    assert rows == [(80, True), (92, True)]


@pytest.mark.parametrize(("options", "step"), [([], 92), (["--step", "80"], 80)])
def test_an_older_runs_weights_are_exported(
    old: RunDirectory, tmp_path: Path, options: list[str], step: int
) -> None:
    answer = swell("checkpoints", "old-1", "--export", str(tmp_path / "x.safetensors"), *options)
    assert answer.stdout.startswith(f"the checkpoint of step {step} is in")
    tensors = load_file(tmp_path / "x.safetensors")
    assert tensors["parts.model.0.weight"].isfinite().all()


def test_one_part_is_exported_under_its_own_names(old: RunDirectory, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    answer = swell("checkpoints", "old-1", "--export", str(path), "--part", "model")
    assert answer.exit_code == 0, answer.stderr
    assert {"0.weight", "0.bias"} <= load_file(path).keys()
    answer = swell("checkpoints", "old-1", "--export", str(path), "--part", "mode")
    assert answer.exit_code == 2
    assert "step 92 has no part 'mode'; it has " in answer.stderr and "model" in answer.stderr
    answer = swell("checkpoints", "old-1", "--part", "model")
    assert "--part belongs to --export" in answer.stderr


def test_an_older_spec_need_not_be_a_job_file_of_today(old: RunDirectory) -> None:
    run = old.run()
    old.write_json(RUN, {**run, "spec": {**run["spec"], "pools": 3, "sails": True}})
    assert swell("checkpoints", "old-1").exit_code == 0
    assert swell("status", "old-1").exit_code == 0


def test_an_older_run_does_not_go_on(old: RunDirectory) -> None:
    answer = swell("attach", "old-1")
    assert answer.exit_code == 2
    assert answer.stderr == (
        f"swell: {old.url}/run.json is of format 1, of an older Swell; "
        f"Swell {formats.version()} goes on with runs from format 2 on; "
        "attach with the Swell that launched it, or begin a new run from one of its checkpoints "
        "(swell checkpoints old-1; swell launch JOB --from URL) [SW2026]\n"
    )


def test_an_older_run_is_cancelled(old: RunDirectory) -> None:
    old.store.delete("outcome.json")
    assert swell("cancel", "old-1").stdout == "run old-1 is cancelled\n"
    assert (old.outcome() or {})["state"] == "cancelled"


# --- a newer run ------------------------------------------------------------------


def launched(run_id: str = "new-1", **fields: Any) -> RunDirectory:
    """A run as this version launches it, with other ``fields`` in its run.json."""
    job = Job.model_validate({"name": "n", "task": "m:C", "pools": ["a2-highgpu-1g"]})
    draft = prepare(job, "local", run_id)
    create(draft)
    draft.directory.write_json(RUN, {**draft.directory.run(), **fields})
    return draft.directory


def test_a_run_says_its_format_and_who_launched_it() -> None:
    run = launched().run()
    assert {key: run[key] for key in ("format", "swell")} == formats.RUN.stamp()


@pytest.mark.parametrize(
    "command",
    [
        ["status", "new-1"],
        ["checkpoints", "new-1", "--verify"],
        ["checkpoints", "new-1", "--export", "x.safetensors"],
        ["attach", "new-1"],
        ["logs", "new-1"],
        ["preempt", "new-1", "workerpool0-0"],
    ],
    ids=lambda command: " ".join(command),
)
def test_a_newer_run_is_refused_and_says_what_to_update(command: list[str]) -> None:
    directory = launched(format=3, swell="7.1", spec="of a kind that nobody knows", settings=[])
    answer = swell(*command)
    assert answer.exit_code == 2
    assert answer.stderr == (
        f"swell: {directory.url}/run.json is of format 3, written by Swell 7.1; "
        f"Swell {formats.version()} knows up to 2: {UPDATE} [SW2026]\n"
    )


def test_a_newer_run_is_named_beside_those_that_are_listed() -> None:
    launched("new-1", format=3)
    launched("one-1")
    answer = swell("runs", "--quiet")
    assert answer.stdout == "one-1\n"
    assert answer.stderr.startswith("swell: new-1: cannot be read: ") and UPDATE in answer.stderr


def test_a_newer_run_can_be_cancelled_all_the_same() -> None:
    """What goes on costs money; and the fields that this takes are the same in every format."""
    directory = launched(format=3, spec={"of": "a kind that nobody knows"})
    assert swell("cancel", "new-1").stdout == "run new-1 is cancelled\n"
    assert (directory.outcome() or {})["state"] == "cancelled"


def test_a_damaged_run_json_is_no_traceback() -> None:
    launched().store.write(RUN, b"{")
    answer = swell("status", "new-1")
    assert answer.exit_code == 2 and "run.json is damaged" in answer.stderr


@given(st.integers(formats.RUN.number + 1, 2**63))
def test_any_newer_run_is_an_error_for_the_user(format: int) -> None:
    directory = RunDirectory("memory://newer")
    directory.write_json(RUN, {"format": format})
    with pytest.raises(home.RunError, match=f"is of format {format}, .*: {UPDATE}"):
        home.read_run(directory)


# --- a newer image ----------------------------------------------------------------


def newer_manifest(old: RunDirectory) -> None:
    """Its newest checkpoint becomes one that a newer image has written."""
    from trainer.checkpoints.manifest import signed

    name = "checkpoints/step-000000092/manifest.json"
    manifest = old.read_json(name)
    rest = {key: value for key, value in manifest.items() if key not in ("owner", "sha256")}
    old.write_json(name, signed({**rest, "format": 5, "swell": "7.1"}))


def test_a_newer_checkpoint_is_listed_as_such(old: RunDirectory) -> None:
    newer_manifest(old)
    answer = swell("checkpoints", "old-1", "--json")
    assert answer.exit_code == 1
    rows = {row["step"]: row for row in json.loads(answer.stdout)}
    assert (rows[80]["valid"], rows[92]["valid"]) == (None, False)
    assert "manifest.json is of format 5, written by Swell 7.1; " in rows[92]["reason"]
    assert rows[92]["reason"].endswith(UPDATE)


def test_an_older_checkpoint_is_not_exported_for_a_newer_one(
    old: RunDirectory, tmp_path: Path
) -> None:
    newer_manifest(old)
    path = tmp_path / "x.safetensors"
    answer = swell("checkpoints", "old-1", "--export", str(path))
    assert answer.exit_code == 2 and "is of format 5" in answer.stderr and UPDATE in answer.stderr
    assert not path.exists()
    assert swell("checkpoints", "old-1", "--export", str(path), "--step", "80").exit_code == 0


UNREADABLE = {"event": "unreadable", "time": 1.0, "reason": "events/a is of format 3"}


def test_newer_events_are_a_line_that_says_so() -> None:
    assert line_of(UNREADABLE) == f"events/a is of format 3: {UPDATE}"


def test_a_status_without_the_newer_events_says_so() -> None:
    attempts = [{"attempt": 1, "state": "RUNNING"}]
    status = build_status("one", History([UNREADABLE]), attempts, None)
    assert status["reason"] == f"events/a is of format 3: {UPDATE}"


# --- another launcher of the same format ------------------------------------------


@pytest.mark.parametrize("command", [["attach", "new-1"], ["logs", "new-1", "--replica", "x"]])
def test_a_job_with_fields_of_another_version_is_no_traceback(command: list[str]) -> None:
    spec = {"name": "n", "task": "m:C", "pools": ["a2-highgpu-1g"], "sails": True}
    launched(spec=spec, swell="0.1.9")
    answer = swell(*command)
    assert answer.exit_code == 2
    said = f"swell: new-1: its job is of Swell 0.1.9; Swell {formats.version()} does not take it: "
    assert answer.stderr.startswith(said + "sails: ")
