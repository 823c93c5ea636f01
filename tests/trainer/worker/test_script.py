"""A script is run as Python itself runs it, and what it is written for is seen in its text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.worker.script import is_elastic

ROOT = Path(__file__).parents[3]
SCRIPT = """
import os, sys
import beside
print(__name__, sys.argv, os.path.basename(sys.path[0]), beside.there, os.getcwd(), flush=True)
print(os.path.basename(__file__), sys.modules["__main__"].__name__)
if len(sys.argv) > 1 and sys.argv[1] == "exit":
    sys.exit(int(sys.argv[2]))
"""
RUN = """
import json, sys
from trainer.worker.script import run_as_main
from trainer.protocol.session import Program
ending = run_as_main(Program(**json.loads(sys.argv.pop())))
if ending is not None:
    print("exit", repr(ending.code))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "package"
    package.mkdir()
    (package / "train.py").write_text(SCRIPT)
    (package / "beside.py").write_text("there = 'beside'\n")
    return tmp_path


def run(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, how],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def python(folder: Path, *args: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *args], cwd=folder, env=env, capture_output=True, text=True, check=True
    ).stdout


def test_a_script_sees_what_python_shows_it(folder: Path) -> None:
    ours = run(folder, '{"script": "package/train.py", "args": ["--lr", "0.1"]}')
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == python(folder, "package/train.py", "--lr", "0.1")


def test_a_module_sees_its_name_and_arguments(folder: Path) -> None:
    (folder / "beside.py").write_text("there = 'in the current folder'\n")
    ours = run(folder, '{"module": "package.train", "args": ["x"]}')
    assert ours.returncode == 0, ours.stderr
    theirs = python(folder, "-m", "package.train", "x")
    # Python gives a module the path of its file as argv[0].
    assert ours.stdout == theirs


@pytest.mark.parametrize(
    "how, error",
    [
        (
            '{"script": "nothing.py"}',
            "trainer.worker.script.ScriptError: there is no nothing.py in ",
        ),
        ('{"module": "nothing"}', "ImportError: No module named nothing"),
    ],
)
def test_what_goes_wrong_is_told(folder: Path, how: str, error: str) -> None:
    ours = run(folder, how)
    assert ours.returncode == 1
    assert ours.stderr.splitlines()[-1].startswith(error)


@pytest.mark.parametrize("code", [0, 3])
def test_how_it_exits_is_for_its_caller_to_judge(folder: Path, code: int) -> None:
    ours = run(folder, f'{{"script": "package/train.py", "args": ["exit", "{code}"]}}')
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout.splitlines()[-1] == f"exit {code}"


@pytest.mark.parametrize(
    "text, elastic",
    [
        ("import horovod.torch as hvd\nhvd.init()", False),
        ("import horovod.torch as hvd\n@hvd.elastic.run\ndef train(state): ...", True),
        ("from horovod.torch.elastic import run", True),
        ("from trainer import fit", True),
        ("from trainer import elastic as e", True),
        ("'elastic in a text is not enough'", False),
        ("this is no Python", True),
    ],
)
def test_a_plain_script_does_not_name_elastic(tmp_path: Path, text: str, elastic: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(text)
    assert is_elastic(str(script)) is elastic


def test_what_cannot_be_read_counts_as_elastic(tmp_path: Path) -> None:
    assert is_elastic(str(tmp_path / "nothing.py"))
    assert is_elastic("", "no_such_module")
    assert not is_elastic("", "json.tool")
