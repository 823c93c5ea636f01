"""``swell check`` finds what is wrong with a task, and names it; a sound one it leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import ranks  # noqa: F401 - what processes begin with
from tests.trainer.check import mistakes
from trainer.check.check import Checked, check

HERE = Path(__file__).parent

PLANTED = {
    mistakes.OtherData: ("SW6201", "of dataset() is another one when dataset() is made again"),
    mistakes.OtherModel: ("SW6202", "model() has other values when it is made again, in 0.bias"),
    mistakes.InNoOptimizer: ("SW6203", "no optimizer has 3.weight, 3.bias"),
    mistakes.Unused: ("SW6204", "0.scale had no gradient in the first step"),
    mistakes.Summed: ("SW6205", "it is no mean over them"),
    mistakes.OwnRandomness: ("SW6206", "random numbers that are not seeded in each step"),
    mistakes.NoNumber: ("SW5129", "step 1: the loss is -inf"),
    mistakes.Skipping: ("SW6207", "step 1: the loss is -inf"),
    mistakes.OfTheWorld: ("SW6208", "step 1: the loss is"),
    mistakes.NoMean: ("SW6209", "evaluate_batch(): largest is"),
    mistakes.Forgetful: ("SW6210", "is not what it was after a checkpoint is loaded"),
    mistakes.Counting: ("SW5123", "Counting.calls changes while the task trains"),
    mistakes.Endless: ("SW5187", "the data set has no length, so there are no epochs to count"),
    mistakes.Synchronised: ("SW5147", "model.1 is a SyncBatchNorm"),
    mistakes.Raising: ("SW6211", "the task raises ZeroDivisionError: in the loss"),
}


@pytest.mark.parametrize("task", PLANTED, ids=lambda task: task.__name__)
def test_a_planted_mistake_is_found_and_named(task: Any) -> None:
    id, text = PLANTED[task]
    checked = check(task, steps=2, size=2)
    found = {one.id: one.text for one in checked.findings}
    assert next(iter(found)) == id, found
    assert text in found[id]


def test_a_sound_task_has_none_and_is_the_same_in_both_worlds() -> None:
    checked: Checked = check(mistakes.Sound, steps=3, size=2)
    assert checked.findings == []
    assert len(checked.alone.losses) == len(checked.together.losses) == 3
    assert checked.apart < 1e-5, "dropout is on, and goes by units"
    assert checked.alone.units == (2, "random numbers")
    assert checked.alone.figures == pytest.approx(checked.together.figures, rel=1e-4)


def test_the_command_prints_it_and_exits_by_it(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "launcher.cli", "check", f"{HERE / 'mistakes.py'}:Skipping"]
    ran = subprocess.run([*line, "--json"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    (finding,) = json.loads(ran.stdout, parse_constant=pytest.fail)["findings"]
    assert finding["id"] == "SW6207", "its loss is infinite, which JSON has no number for"
    line[-1] = f"{HERE / 'mistakes.py'}:Nothing"
    ran = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.endswith("has no class 'Nothing' [SW6212]\n")
