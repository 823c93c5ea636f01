"""What docs/ tells its readers to do, done as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.command import ROOT, Swell, until

# tests/test_site.py and tests/test_docs.py have what takes seconds. Nothing here hurries: a machine
# may be busy.
pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def commands(page: str) -> str:
    """All of a page's blocks of commands, as one script that ends with the first that fails."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    return "set -e\n" + "".join(blocks)


def shell(swell: Swell, script: str, folder: Path) -> str:
    """What a script prints in bash, with this tree's ``swell`` and ``python``."""
    programs = folder / "bin"
    programs.mkdir()
    for name, line in (("swell", "-m launcher.cli"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {line} "$@"\n')
        program.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**swell.environment(), "PATH": path, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def test_the_tutorial_goes_as_it_says(swell: Swell) -> None:
    told = shell(swell, commands("tutorial.md"), swell.folder)
    assert "workerpool1-0 has notice that it will be taken away" in told
    assert "steps           3,200 completed, none done again" in told
    first, second = swell.status("first"), swell.status("second")
    assert (first["state"], first["steps_lost"], first["drains"]) == ("succeeded", 0, 1)
    sizes = [it["world_size"] for it in first["generations"]]
    assert sizes[:2] == [3, 2], "and 3 again, if the machine is quick enough"
    assert (second["state"], second["step"], second["steps_lost"]) == ("succeeded", 2400, 0)
    folder = swell.folder / "train"
    assert {it.name for it in folder.iterdir()} >= {"first.html", "model.safetensors"}
    until(swell.nothing_is_left)


def test_the_example_of_a_test_passes(swell: Swell) -> None:
    page = (ROOT / "docs/testing.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for file in (ROOT / "examples/squares").glob("*.py"):
        (swell.folder / file.name).write_bytes(file.read_bytes())
    (swell.folder / "test_training.py").write_text(example)
    told = shell(
        swell,
        f"python -m pytest -q -p no:cacheprovider --rootdir {swell.folder} test_training.py",
        swell.folder,
    )
    assert "1 passed" in told
    until(swell.nothing_is_left)
