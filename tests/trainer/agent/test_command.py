"""The agent's command line: a program in the manner of torchrun, in a run of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.agent import command
from trainer.agent.command import Arguments, begin_run, own_run_dir, parse
from trainer.agent.replica import Replica
from trainer.agent.settings import Settings
from trainer.protocol.credentials import find_credentials, fingerprint
from trainer.protocol.session import Program
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ENV_RUN_DIR, ENV_TOKEN

SCRIPT = """
import sys
import horovod.torch as hvd
import torch
hvd.init()
print("world", hvd.size(), "args", *sys.argv[1:], "sum", hvd.allreduce(torch.ones(1)).item())
"""


def replica(replicas: int = 1, slots: int = 1) -> Replica:
    return Replica("workerpool0-0", "127.0.0.1", "lo", slots, replicas)


@pytest.mark.parametrize(
    ("words", "program"),
    [
        ("train.py --epochs 3 -m x", Program(script="train.py", args=["--epochs", "3", "-m", "x"])),
        ("-m pkg.train --epochs 3", Program(module="pkg.train", args=["--epochs", "3"])),
        ("-- train.py", Program(script="train.py")),
        (
            "pkg.tasks:Digits epochs=3 dtype=float64 sizes=[1,2]",
            Program(
                task="pkg.tasks:Digits",
                task_args={"epochs": 3, "dtype": "float64", "sizes": [1, 2]},
            ),
        ),
        ("my/task.py:Mine", Program(task="my/task.py:Mine")),
    ],
)
def test_what_follows_is_the_program_and_its_arguments(words: str, program: Program) -> None:
    assert parse(words.split()) == Arguments(program, 1, None)
    assert str(program) == words.removeprefix("-- ").removeprefix("-m ").partition(" ")[0]


def test_options_before_the_program_are_the_agent_s() -> None:
    found = parse(["--min-workers", "2", "--max-workers", "4", "a.py", "--min-workers", "9"])
    assert found == Arguments(Program(script="a.py", args=["--min-workers", "9"]), 2, 4)
    assert parse([]) == Arguments(None, 1, None)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("-m", "-m needs the name of a module"),
        ("-m not/a/module", "not the name of a module"),
        ("train", "neither script.py nor MODULE:CLASS; a module needs -m"),
        ("a:B epochs", "epochs: a task takes NAME=VALUE"),
        ("--min-workers 0 a.py", "'0' is not a number of workers"),
        ("--min-workers many a.py", "'many' is not a number of workers"),
        ("--min-workers 3 --max-workers 2 a.py", "--max-workers 2 is less than --min-workers 3"),
        ("--epochs 3", "unrecognized arguments"),
    ],
)
def test_a_wrong_command_line_is_said_in_a_line(
    words: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words.split())
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err


def test_the_run_directory_is_the_chosen_one_or_vertex_s_or_a_new_folder() -> None:
    vertex = {"AIP_CHECKPOINT_DIR": "gs://bucket/run/checkpoints/"}
    assert own_run_dir(vertex, lambda: "/new") == "gs://bucket/run"
    assert own_run_dir({**vertex, ENV_RUN_DIR: "/mine"}, lambda: "/new") == "/mine"
    assert own_run_dir({}, lambda: "/new") == "/new"


def test_a_world_of_one_makes_its_run_and_its_secret(tmp_path: Path) -> None:
    run_dir = RunDirectory(str(tmp_path))
    arguments = Arguments(Program(script="a.py"), 1, None)
    found = begin_run(arguments, replica(slots=4), {}, run_dir, "a-secret")
    assert found == {ENV_RUN_DIR: str(tmp_path), ENV_TOKEN: "a-secret"}
    run = run_dir.run()
    assert Settings.of_run(run) == Settings(Program(script="a.py"), max_workers=4)
    assert run["authority_sha256"] == fingerprint("a-secret")
    assert "a-secret" not in json.dumps(run)


def test_replicas_that_share_a_secret_share_the_run_that_the_first_makes(tmp_path: Path) -> None:
    run_dir = RunDirectory(str(tmp_path))
    for script in ("first.py", "second.py"):
        arguments = Arguments(Program(script=script), 2, None)
        begin_run(arguments, replica(3, 2), {ENV_TOKEN: "shared"}, run_dir, "own")
    settings = Settings.of_run(run_dir.run())
    assert settings == Settings(Program(script="first.py"), min_workers=2, max_workers=6)
    with pytest.raises(ValueError, match="3 replicas without a secret in SWELL_TOKEN"):
        begin_run(Arguments(Program(script="a.py"), 1, None), replica(3), {}, run_dir, "own")


def test_help_explains_it_and_imports_nothing_heavy() -> None:
    look = "import sys; from trainer.agent import command as e; " + (
        "sys.argv = ['swell-agent', '--help']\n"
        "try: e.main()\n"
        "except SystemExit: print([m for m in ('torch', 'grpc', 'horovod') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert "as torchrun takes it" in told.stdout and told.stdout.endswith("[]\n")


def test_without_a_program_and_a_run_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(ENV_RUN_DIR, raising=False)
    monkeypatch.setattr("sys.argv", ["swell-agent"])
    assert command.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("swell-agent: there is nothing to run") and said.endswith(" [SW4017]\n")


def test_a_script_runs_in_a_world_of_one_without_anything_around_it(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "trainer.agent", "train.py", "--epochs", "3"],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(root),
            "TMPDIR": str(tmp_path),
            "GCE_METADATA_HOST": "127.0.0.1:9",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "world 1 args --epochs 3 sum 1.0" in done.stdout
    (run,) = tmp_path.glob("swell-*")
    assert RunDirectory(str(run)).outcome() is not None


def test_a_run_of_its_own_has_the_credentials_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (ENV_TOKEN, "CLUSTER_SPEC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(ENV_RUN_DIR, str(tmp_path))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    command._begin(Arguments(Program(script="a.py"), 1, None))
    run = RunDirectory(str(tmp_path)).run()
    assert find_credentials(os.environ, run).token not in str(run)
