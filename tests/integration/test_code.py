"""A project of several files under ``swell launch``: packed, sent, and run from what was sent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.integration.command import Swell, until
from tests.trainer.agent.test_code import wheel

TRAIN = """
import os
import sys

import torch

import greeting
from helpers.net import net
from trainer import elastic

torch.manual_seed(0)
x = torch.linspace(-1, 1, 256).unsqueeze(1)
data = torch.utils.data.TensorDataset(x, x**2)
model = net()
state = elastic.State(model=model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-2))
for step in elastic.steps(state, elastic.batches(data, 64, seed=1), epochs=int(sys.argv[1])):
    with step:
        a, b = data[step.indices]
        loss = ((model(a) - b) ** 2).sum() / step.batch_size
        step.add(loss=loss)
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
with open("result.txt", "w") as file:
    print("mine", file=file)
print("trained", greeting.HELLO, open("settings.txt").read(), os.path.exists("data"))
"""
NET = """
import torch


def net():
    return torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
"""


def project(folder: Path) -> Path:
    """What a user has: a program beside its helpers, settings, data that git ignores."""
    for name, text in {
        "train.py": TRAIN,
        "helpers/net.py": NET,
        "settings.txt": "by the settings",
        "requirements.txt": "--no-index\n./greeting-1.0-py3-none-any.whl\n",
        ".gitignore": "data/\n",
        "data/large.bin": "x",
        "job.yaml": "name: project\nscript: train.py\nargs: ['2']\noutput: gs://bucket/runs\n"
        "code: {folder: ., requirements: requirements.txt}\n"
        "pools: [a2-highgpu-2g]\nelastic: {min_workers: 2, spares: 0}\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    wheel(folder)
    return folder


def test_a_project_is_sent_and_runs_from_its_bucket(swell: Swell) -> None:
    folder = project(swell.folder / "project")
    listed = swell("plan", str(folder / "job.yaml"), "--format", "files").stdout
    assert "helpers/net.py" in listed and "large.bin" not in listed
    launch = swell("launch", str(folder / "job.yaml"), "--run-id", "one", "--detach", "--json")
    assert json.loads(launch.stdout) == {"run": "one", "url": "gs://bucket/runs/one"}, launch.stderr
    shutil.rmtree(folder)  # from now on the VMs have what was sent, and nothing else
    until(swell.nothing_is_left)
    logs = swell("logs", "one").stdout
    status = swell.status("one")
    assert status["state"] == "succeeded", f"{status['reason']}\n{logs}"
    assert "trained hello by the settings False" in logs
    (lost,) = status["troubles"]
    assert "the program has written result.txt beside its code" in lost and "SW5028" in lost


def test_what_cannot_be_installed_fails_the_run(swell: Swell) -> None:
    folder = project(swell.folder / "project")
    (folder / "requirements.txt").write_text("--no-index\nno-such-thing==7\n")
    sets = ["--set", "pools=[a2-highgpu-1g]", "--set", "elastic={}", "--run-id", "one"]
    launch = swell("launch", str(folder / "job.yaml"), *sets)
    assert launch.returncode == 1
    reason = swell.status("one")["reason"].splitlines()[0]
    assert reason.startswith("requirements.txt cannot be installed: ERROR: ")
    assert "no-such-thing" in reason
    assert reason in launch.stdout
    until(swell.nothing_is_left)


def test_a_secret_starts_nothing(swell: Swell) -> None:
    folder = project(swell.folder / "project")
    (folder / ".env").write_text("TOKEN=x")
    for detach in ([], ["--detach"]):
        launch = swell("launch", str(folder / "job.yaml"), "--run-id", "one", *detach)
        assert launch.returncode == 2
        assert launch.stderr.startswith("swell: code: .env has the name of a secret")
        assert launch.stderr.count("\n") == 1
    assert swell("runs").stdout.startswith("There are no runs yet")


def test_without_an_agent_the_code_comes_as_a_package(swell: Swell) -> None:
    folder = swell.folder / "project"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep/__init__.py").write_text("")
    (folder / "deep/er/part.txt").write_text("and its data")
    (folder / "deep/er/__init__.py").write_text(
        "from pathlib import Path\nSAID = Path(__file__).with_name('part.txt').read_text()\n"
    )
    (folder / "go.py").write_text("from deep.er import SAID\nprint('the package runs', SAID)\n")
    (folder / "job.yaml").write_text(
        "name: project\ncode: .\npackage: {executor: an/image, module: go}\n"
        "pools: [a2-highgpu-1g]\n"
    )
    launch = swell("launch", str(folder / "job.yaml"), "--run-id", "one")
    logs = swell("logs", "one").stdout
    assert "the package runs and its data" in logs, launch.stdout + logs
    assert launch.returncode == 0
    until(swell.nothing_is_left)
