"""What the trainer reads of run.json."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.agent.settings import Settings, read_run
from trainer.protocol.session import CheckpointSettings, Program
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import RUN
from trainer.rundir.usererror import Unusable, shown

TASK = "trainer.tasks.digits:Digits"
SHA256 = 64 * "a"


def of(**settings: Any) -> Settings:
    return Settings.of_run({"id": "r1", "settings": {"program": {"task": TASK}, **settings}})


def test_what_is_left_out_has_a_default() -> None:
    assert of() == Settings(Program(TASK))
    assert of(checkpoint={"keep": 5}).checkpoint == CheckpointSettings(keep=5)


def test_everything_can_be_set() -> None:
    values = {
        "program": {
            "task": TASK,
            "task_args": {"epochs": 3},
            "script": "",
            "module": "",
            "args": [],
        },
        "torchrun": None,
        "checkpoint": {
            "every": 600.0,
            "every_steps": 500,
            "keep": 5,
            "keep_every": 1000,
            "keep_best": "-loss",
            "start_from": "gs://b/run/checkpoints/step-1",
            "override": {"lr": 0.1},
            "rename": {"a": "b"},
            "fresh": ["c"],
        },
        "code": {
            "sha256": SHA256,
            "size": 7,
            "requirements": "requirements.txt",
            "folder": "",
            "installed": "",
        },
        "balance": "speed",
        "min_workers": 2,
        "max_workers": 8,
        "start_wait": 5.0,
        "hold_off": 0.5,
        "heartbeat": 0.25,
        "suspicion": 4.0,
        "hang": 20.0,
        "standstill": 20.0,
        "replace_stragglers": 1.5,
        "preflight": True,
        "stall": 1200.0,
        "lease_timeout": 30.0,
        "spares": 0,
        "job_sha256": "x",
        "audit": True,
        "on_nonfinite": "skip",
        "telemetry": {
            "tensorboard": False,
            "required": True,
            "wandb": "digits",
            "mlflow": "http://h:5000",
            "traces": "http://h:4318",
            "port": 9400,
            "machines": False,
        },
        "fleet": 3,
    }
    assert asdict(of(**values)) == values


def test_a_whole_number_of_seconds_is_a_time() -> None:
    assert of(stall=1200).stall == 1200.0


def test_the_limits_of_membership_follow() -> None:
    limits = of(min_workers=2, max_workers=8, start_wait=5.0, hold_off=0.5).limits()
    assert (limits.min_workers, limits.max_workers) == (2, 8)
    assert (limits.start_wait, limits.hold_off) == (5.0, 0.5)


@pytest.mark.parametrize("suspicion", [0.6, 2.0, 20.0, 100.0])
def test_any_suspicion_makes_limits_that_agree(suspicion: float) -> None:
    limits = of(suspicion=suspicion).limits()
    assert limits.suspicion == suspicion <= limits.idle_suspicion
    assert limits.timeouts(0.0).hang > suspicion


def test_a_lease_is_shorter_where_the_store_answers_at_once() -> None:
    local, remote = of().limits(local=True), of().limits(local=False)
    assert (local.lease_timeout, local.lease_renew) == (5.0, 0.5)
    assert (remote.lease_timeout, remote.lease_renew) == (10.0, 1.25)
    chosen = of(lease_timeout=30.0)
    assert chosen.limits(local=True).lease_timeout == chosen.limits(local=False).lease_timeout == 30


def test_a_lease_that_an_object_store_could_not_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="lease_timeout 3 s must be longer than lease_doubt"):
        of(lease_timeout=3.0)


@pytest.mark.parametrize("run", [{}, {"settings": None}, {"settings": []}, {"settings": "x"}])
def test_a_run_without_settings_is_refused(run: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"run\.json has no settings"):
        Settings.of_run(run)


def test_a_setting_that_is_not_known_is_named() -> None:
    with pytest.raises(ValueError, match=r"does not know: \['momentum', 'wings'\]"):
        of(wings=2, momentum=0.9)
    with pytest.raises(ValueError, match=r"does not know: \['checkpoint\.kep'\]"):
        of(checkpoint={"kep": 2})


@pytest.mark.parametrize("program", [{}, {"task": TASK, "script": "a.py"}], ids=str)
def test_one_program_is_needed(program: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"settings: exactly one of program\.task, script and mod"):
        of(program=program)


def test_what_is_wrong_is_said_in_a_line_each() -> None:
    """No traceback, and nothing of the library that found it out."""
    with pytest.raises(ValueError) as raised:
        of(checkpoint={"keep": "two"}, code={"sha256": SHA256}, audit="yes")
    assert str(raised.value) == (
        "run.json's checkpoint.keep is not a valid integer: 'two'; run.json's settings lack "
        "code.size; run.json's audit is not a valid boolean: 'yes'"
    )


@pytest.mark.parametrize("heartbeat, suspicion", [(2.0, 2.0), (3.0, 2.0), (0.0, 2.0), (-1.0, 2.0)])
def test_a_heartbeat_must_be_shorter_than_suspicion(heartbeat: float, suspicion: float) -> None:
    with pytest.raises(ValueError, match="must be shorter than suspicion"):
        of(heartbeat=heartbeat, suspicion=suspicion)


@pytest.mark.parametrize(
    "name, value",
    [
        ("heartbeat", "0.5s"),
        ("heartbeat", None),
        ("heartbeat", []),
        ("heartbeat", True),
        ("min_workers", 1.5),
        ("stall", math.nan),
        ("balance", "fair"),
        ("program.task", 7),
        ("program.script", 1.0),
        ("program.task_args", []),
        ("program.args", {}),
        ("program.args", None),
        ("program.args.1", ["a", 1]),
        ("code.requirements", 1.5),
        ("code.size", "7"),
        ("code", []),
        ("checkpoint", 30.0),
        ("checkpoint.every", "30s"),
        ("checkpoint.keep", 2.0),
        ("audit", 1),
    ],
)
def test_a_setting_of_the_wrong_kind_is_refused_and_named(name: str, value: Any) -> None:
    outer, _, inner = name.partition(".")
    code = {"sha256": SHA256, "size": 1}
    given: dict[str, Any] = {"program": {"task": TASK}, "checkpoint": {}, "code": code}
    if inner:
        given[outer][inner.partition(".")[0]] = value
    else:
        given[outer] = value
    with pytest.raises(ValueError, match=rf"^run\.json's {re.escape(name)} is not "):
        of(**given)


# --- versions ---------------------------------------------------------------------

SETTINGS = {"program": {"task": TASK}}


def run_with(**fields: Any) -> RunDirectory:
    """A new run directory with this run.json."""
    run_dir = RunDirectory("memory://run-of-another-version")
    run_dir.store.fs.store.clear()
    run_dir.write_json(RUN, {"id": "r1", "settings": SETTINGS, **formats.RUN.stamp(), **fields})
    return run_dir


def refusal(run_dir: RunDirectory) -> str:
    """Why an agent does not take part in a run, as its log and the run's outcome say."""
    with pytest.raises(ValueError) as caught:
        read_run(run_dir)
    outcome = run_dir.outcome()
    assert outcome and (outcome["state"], outcome["reason"]) == ("failed", shown(caught.value))
    return str(caught.value)


def test_an_agent_takes_a_run_of_its_own_version() -> None:
    run_dir = run_with()
    run, settings = read_run(run_dir)
    assert run["id"] == "r1" and settings == Settings(Program(TASK))
    assert run_dir.outcome() is None


@given(st.integers(formats.RUN.number + 1, 2**63))
def test_a_newer_run_ends_and_says_what_to_update(format: int) -> None:
    run_dir = run_with(format=format, swell="7.1", settings={"what": ["nobody", "knows"]})
    assert refusal(run_dir) == (
        f"{run_dir.url}/run.json is of format {format}, written by Swell 7.1; "
        f"Swell {formats.version()} knows up to 2: update the image (container.image), "
        f"or launch with Swell {formats.version()}"
    )


def test_an_older_run_ends_and_says_what_to_update() -> None:
    run_dir = run_with(format=1, settings={"task": TASK, "checkpoint_every": 0.0})
    assert "run.json is of format 1, of an older Swell; " in refusal(run_dir)
    assert refusal(run_dir).endswith(
        ": update the launcher, or use an image of its version (container.image)"
    )


def test_settings_that_are_not_known_end_the_run_too() -> None:
    """A newer launcher need not have raised the format for a setting that few jobs use."""
    run_dir = run_with(settings={**SETTINGS, "wings": 2})
    assert "does not know: ['wings']: update the image (container.image), or" in refusal(run_dir)


def test_a_run_that_cannot_be_used_ends_once() -> None:
    run_dir = run_with(format=99)
    run_dir.end("cancelled", "by somebody")
    with pytest.raises(ValueError, match="is of format 99"):
        read_run(run_dir)
    assert (run_dir.outcome() or {})["state"] == "cancelled"


def test_settings_that_are_wrong_concern_this_replica_alone() -> None:
    run_dir = run_with(settings={**SETTINGS, "hang": "long"})
    with pytest.raises(ValueError, match="hang is not a valid number"):
        read_run(run_dir)
    assert run_dir.outcome() is None


def test_without_a_run_json_it_is_no_run_directory() -> None:
    run_dir = run_with()
    run_dir.store.delete(RUN)
    with pytest.raises(ValueError, match=r"is not a run directory: it has no run\.json"):
        read_run(run_dir)


SCRIPT: dict[str, Any] = {"program": {"module": "m"}}


@pytest.mark.parametrize(
    ("torchrun", "what"),
    [
        ({"max_restarts": -1}, "not below 0"),
        ({"grace": -1.0}, "not below 0"),
        ({"sizes": [0]}, "at least 1"),
        ({"sizes": [4]}, r"none of torchrun.sizes \[4\] is from 1 to 2"),
    ],
)
def test_a_torchrun_script_has_settings_that_make_sense(
    torchrun: dict[str, Any], what: str
) -> None:
    with pytest.raises(Unusable, match=what):
        of(**SCRIPT, max_workers=2, torchrun=torchrun)


def test_torchrun_runs_no_task() -> None:
    with pytest.raises(Unusable, match="no task"):
        of(program={"task": TASK}, torchrun={})
