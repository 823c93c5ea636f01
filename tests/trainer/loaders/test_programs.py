"""Programs that have loaders, as a module, a file and a script: they train what others train."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.loaders import training
from tests.trainer.ranks import alone

RUNS = {
    "file": """
import sys, json
from trainer.loop import fit
from trainer.worker.loading import load_class
print(json.dumps(fit(load_class(sys.argv[1] + ":Training")(int(sys.argv[2])))))
""",
    "script": """
import sys
from trainer.protocol.session import Program
from trainer.worker.script import run_as_main
run_as_main(Program(script=sys.argv[1], args=sys.argv[2:]))
""",
}
NAMES = {"file": "json.py", "script": "own.py"}  # a module of the standard library has the first


def trained(workers: int, uses: str = "", **env: str) -> Any:
    """The final metrics, or the errors that it has ended with, from the last to the first one."""
    from trainer import fit

    os.environ.update(env)
    try:
        return fit(training.Training(workers, uses))
    except Exception as error:
        causes: list[BaseException | None] = [error]
        while causes[-1] is not None:
            causes.append(causes[-1].__cause__)
        return [f"{type(one).__name__}: {one}" for one in causes[:-1]]


@functools.cache
def plainly(**env: str) -> Any:
    return alone(functools.partial(trained, 0, **env))


@pytest.mark.parametrize("how", RUNS)
def test_loaders_find_a_program_that_is_no_module(tmp_path: Path, how: str) -> None:
    program = tmp_path / NAMES[how]
    program.write_text(Path(training.__file__).read_text())
    ended = subprocess.run(
        [sys.executable, "-c", RUNS[how], str(program), "2"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == plainly()


def test_what_is_random_in_a_batch_is_learned_from_loaders_too() -> None:
    # By units: else a share would have one batch, with the random numbers of its world.
    found = alone(functools.partial(trained, 3, NOISE="1"))
    assert found == plainly(NOISE="1")
    assert found["seen"] > plainly()["seen"]


def test_a_sample_that_raises_is_named_with_and_without_loaders() -> None:
    said = [
        "SampleError: sample 5 of the data set: OSError: [Errno 5] the disk is broken",
        "OSError: [Errno 5] the disk is broken",
    ]
    assert plainly(BROKEN="5") == said
    *errors, trace = alone(functools.partial(trained, 2, BROKEN="5"))
    assert errors == said and "in __getitem__" in trace


def test_a_batch_that_uses_what_changes_in_the_task_is_refused_where_loaders_would_not_see_it() -> (
    None
):
    assert "seen" in plainly(uses="seen"), "without loaders it is what it is now"
    (error, *_) = alone(functools.partial(trained, 2, uses="seen"))
    assert "a loader process uses Training.seen, which state() declares: it changes" in error
    assert "[SW5184]" in error


def test_a_data_set_that_changes_after_loaders_have_it_ends_the_run() -> None:
    assert "seen" in plainly(LEVEL="1")
    (error,) = alone(functools.partial(trained, 2, LEVEL="1"))
    assert error.startswith("Mistake: the data set's .level was 1 and is 5, since it was handed to")
