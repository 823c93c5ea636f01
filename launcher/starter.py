"""The files that a task of one's own starts with: it, its test, its job file. Pure.

They are made of a task that Swell ships, as its source stands: so they work, and what they begin
with is what the documentation shows. From then on they are the user's.
"""

from __future__ import annotations

import json
import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODULE = re.compile(r"[a-z][a-z0-9_]{0,39}")
# What a task or its test imports.
TAKEN = sys.stdlib_module_names | {
    "classifiers",
    "launcher",
    "numpy",
    "sample",
    "torch",
    "trainer",
    "transformer",
}


@dataclass(frozen=True)
class Kind:
    """A task that others can start from.

    Attributes:
        file: its source, in trainer/tasks.
        name: its class.
        beside: further sources that it imports, and that a user may want to change.
        sample: the source that makes a little of what it trains on, which becomes sample.py; ""
            for a task that brings its data along.
        data: which of its arguments name what it trains on.
        args: arguments for the job file.
        small: arguments for the test, which takes seconds.
    """

    file: str
    name: str
    beside: tuple[str, ...] = ()
    sample: str = ""
    data: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)
    small: Mapping[str, Any] = field(default_factory=dict)


KINDS = {
    "tabular": Kind("tabular.py", "Tumours"),
    "digits": Kind("digits.py", "Digits", args={"epochs": 20}, small={"epochs": 2, "width": 8}),
    "lm": Kind(
        "lm.py",
        "LM",
        beside=("transformer.py",),
        args={"size": "1m", "steps": 600},
        small={
            "length": 16,
            "steps": 10,
            "global_batch": 8,
            "held_out": 0.0002,
            "warmup": 2,
            "dtype": "float64",
        },
    ),
    "finetune": Kind(
        "finetune.py",
        "Finetune",
        sample="sample_chats.py",
        data=("model", "data"),
        args={"model": "sample/model", "data": "sample/chats.jsonl", "length": 96, "lr": 0.01}
        | {"epochs": 30, "batch": 8},
        small={"model": "sample/model", "data": "sample/chats.jsonl", "length": 96, "lr": 0.01}
        | {"epochs": 2, "batch": 8, "dtype": "float64"},
    ),
    "images": Kind(
        "images.py",
        "Images",
        beside=("classifiers.py",),
        sample="sample_pictures.py",
        data=("data",),
        args={"data": "sample/photos", "size": 16, "width": 8, "batch": 16, "unit": 8}
        | {"lr": 0.05, "epochs": 30, "workers": 1},
        small={"data": "sample/photos", "size": 8, "width": 4, "batch": 16, "unit": 8}
        | {"lr": 0.05, "epochs": 3, "workers": 0},
    ),
}

_MAIN = """

if __name__ == "__main__":  # without a cluster: python {module}.py
    from trainer import fit

    print(fit({name}({given})))
"""

_TEST = '''"""{name} trains: python -m pytest test_{module}.py"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from {module} import {name}
{importing}
from trainer import fit

SMALL = {small}
{making}

class Kept({name}):
    """Keeps its model, to look at what has become of it."""

    def model(self):
        self.made = super().model()
        return self.made


def loss_of(task, model):
    """Of the first samples; a sum and a count are a mean, too."""
    data = task.dataset()
    loss = task.loss(model, task.{batch}(data, torch.arange(min(32, len(data)))))
    return loss[0] / loss[1] if isinstance(loss, tuple) else loss


def test_it_learns():
    task = Kept(**SMALL)
    torch.manual_seed(task.seed)
    before = loss_of(task, task.model())
    trained = Kept(**SMALL)
    fit(trained)
    assert loss_of(trained, trained.made.cpu()) < before


def test_it_trains_the_same_in_any_world():
    """What `swell check` looks at: data, model, losses in worlds of one and two, checkpoints."""
    task = f"{{Path(__file__).parent / '{module}.py'}}:{name}"
    check = [sys.executable, "-m", "trainer.check", task, "--args", json.dumps(SMALL)]
    checked = subprocess.run(check, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
'''

_JOB = """\
# Trains {name} on this machine, whose simulated Spot market takes a VM away and gives it back:
{first}#   swell launch {module}.yaml
# On Vertex AI it needs a container and a bucket, too: see docs/job.md of Swell.
name: {run}
task: {module}.py:{name}
{args}code: .            # this folder is sent along
pools:
  - {{machine: a2-highgpu-1g}}
  - {{machine: a2-highgpu-1g, replicas: 2}}
elastic: {{min_workers: 1}}
audit: true        # the summary proves that every sample was used exactly once

local:             # only the local target reads this
  market:
    - {{at: 40 steps, preempt: workerpool1-0, notice: 5s, back: 80 steps}}
"""


def valid(module: str) -> bool:
    """Whether a task's file can be called so: what Python can import as this, and nothing else."""
    taken = module in TAKEN or keyword.iskeyword(module)
    return MODULE.fullmatch(module) is not None and not taken


def files(kind: Kind, module: str, sources: Mapping[str, str]) -> dict[str, str]:
    """The files of a new task, by name.

    Args:
        kind: what it starts from.
        module: what its file is called, without ``.py``; its class is called likewise.
        sources: the files of trainer/tasks, by name.
    """
    name = "".join(part.capitalize() for part in module.split("_"))
    if re.search(rf"\b{name}\b", sources[kind.file] + _TEST):  # it means something else there
        name = f"My{name}"
    task = re.sub(rf"\b{kind.name}\b", name, sources[kind.file])
    others = {other: sources[other] for other in kind.beside}
    for other in others:
        task = task.replace(f"from trainer.tasks.{other[:-3]} import", f"from {other[:-3]} import")
    task = task.replace(f"trainer.tasks.{kind.file[:-3]}:", f"{module}.py:")
    values = {
        "name": name,
        "module": module,
        "run": module.replace("_", "-").strip("-"),
        "small": dict(kind.small),
        "args": f"args: {json.dumps(dict(kind.args))}\n" if kind.args else "",
        "given": ", ".join(f"{key}={it!r}" for key, it in kind.args.items() if key in kind.data),
        "batch": "evaluation_batch" if "def evaluation_batch(" in task else "batch",
        "first": "#   python sample.py\n" if kind.sample else "",
        "importing": "from sample import make\n" if kind.sample else "",
        "making": "make()\n" if kind.sample else "",
    }
    if kind.sample:
        others["sample.py"] = sources[kind.sample]
    return {
        f"{module}.py": task + _MAIN.format(**values),
        f"test_{module}.py": _TEST.format(**values),
        f"{module}.yaml": _JOB.format(**values),
        **others,
    }
