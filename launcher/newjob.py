"""The job file that a program starts with, and what kind of program it is. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from launcher.job.barescript import name_of
from trainer.worker.script import names_elastic

_JOB = """\
# Runs {program} on this machine, against an emulated Vertex AI:
#   swell launch {file}
name: {name}
{field}: {program}
{args}code: .                        # this folder is sent along
pools:                         # on this machine a GPU is a process on its processors
  - a2-highgpu-1g              # Vertex AI wants one replica in the first pool
  - 2 x a2-highgpu-1g
{elastic}
# On Vertex AI (--target vertex) it needs these, too. Before the first launch,
# swell doctor {file} --target vertex sees whether all is there.
# project: my-project
# regions: [us-central1, us-east4]        # in order of preference
# output: gs://my-bucket/runs             # run directories are made here
# container: us-central1-docker.pkg.dev/my-project/my-repository/swell-trainer:0.1.0
# limits: {{cost: 100 USD}}

local:                         # only the local target reads this: its Spot market,
  market:                      # if the run lasts so long
    - {{at: {at}, preempt: workerpool1-0, notice: 5s, back: {back}}}
"""

_ELASTIC = """\
elastic: {min_workers: 1}      # train on with as few as one of the three
checkpoint: {every: 10min}
"""


def field_of(source: bytes) -> str:
    """Returns the job's field for a program: ``script`` for what Horovod or Swell's loop trains.

    ``torchrun`` for any other. Raises SyntaxError and ValueError for what is no Python.
    """
    elastic = names_elastic(source) or "horovod" in _imported(ast.parse(source))
    return "script" if elastic else "torchrun"


def job_file(program: str, field: str, file: str, args: str = "") -> str:
    """Returns the text of a job file.

    Args:
        program: what the field says: ``train.py``, or ``tasks.py:Digits``.
        field: ``task``, ``script`` or ``torchrun``.
        file: what the job file is called.
        args: its arguments, in YAML; "" for none.
    """
    own = field == "torchrun"  # its world and its checkpoints are its own
    return _JOB.format(
        program=program,
        field=field,
        file=file,
        name=name_of(Path(file).stem),
        args=f"args: {args}\n" if args else "",
        elastic="" if own else _ELASTIC,
        at="20s" if own else "300 steps",
        back="40s" if own else "600 steps",
    )


def _imported(tree: ast.AST) -> set[str]:
    """The packages that a program imports."""
    return {name.split(".")[0] for node in ast.walk(tree) for name in _modules(node)}


def _modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and not node.level:
        yield node.module or ""
