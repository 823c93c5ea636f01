"""The example in docs/python.md, run as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

from tests.integration.command import LIMIT, ROOT, Swell, until


def test_the_documents_example_runs(swell: Swell) -> None:
    folder = swell.folder / "squares"
    shutil.copytree(ROOT / "examples/squares", folder)
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    (folder / "launch.py").write_text(example)
    ran = subprocess.run(
        [sys.executable, "launch.py"],
        cwd=folder,
        env=swell.environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    # On a busy machine a leader may miss its term, and takes who leaves it for another as lost.
    lines = [line for line in ran.stdout.splitlines() if not line.startswith("lost ")]
    assert lines[0] == "training goes on at step 0 with 2 workers"
    assert lines[-2] == "succeeded training is complete"
    assert lines[-1].startswith("steps 48 {'loss': ")
    until(swell.nothing_is_left)
