"""The Python API, as the README shows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example() -> str:
    """The README's first Python block."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("before", ["", "import trainer.loop\n"])
def test_the_readmes_task_trains_alone(tmp_path: Path, example: str, before: str) -> None:
    script = tmp_path / "squares.py"
    script.write_text(before + example.replace("fit(Squares())", "print(fit(Squares()))"))
    answer = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "{}\n", "a task without evaluate has no metrics"


def test_the_launchers_half_of_the_trainer_needs_no_torch() -> None:
    program = (
        "import sys, trainer.rundir.events, trainer.rundir.directory; print('torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "False\n"
