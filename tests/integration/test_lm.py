"""The language model comes to the stated loss, the same whether VMs vanish or not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.command import Swell, until
from tests.integration.test_elastic_run import losses_of
from trainer.tasks.lm import LM

ROOT = Path(__file__).parents[2]


def stated() -> float:
    """The loss that the page promises, in nats per byte."""
    [found] = re.findall(
        r"validation loss is below (\d\.\d+) nats per byte", (ROOT / "docs/lm.md").read_text()
    )
    return float(found)


def trained(swell: Swell, run: str, **changes: Any) -> dict[str, Any]:
    job = yaml.safe_load((ROOT / "examples/lm.yaml").read_text())
    path = swell.folder / f"{run}.yaml"
    path.write_text(yaml.safe_dump({**job, **changes}))
    launch = swell("launch", str(path), "--run-id", run)
    assert launch.returncode == 0, launch.stdout + launch.stderr
    status = swell.status(run)
    assert status["state"] == "succeeded", status["reason"]
    assert status["step"] == job["args"]["steps"]
    # It ends within its first pass: what it has not come to is left, and not one window more.
    assert status["samples_repeated"] == 0
    task = LM(**job["args"], cache=str(swell.folder / "tokens"))
    assert task.steps is not None
    left = len(task.dataset()) - task.steps * task.global_batch
    assert status["samples_skipped"] == left
    until(swell.nothing_is_left)
    return status


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_stated_loss_is_reached_through_a_drain_a_silent_loss_and_returns(
    swell: Swell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.integration.command.LIMIT", 3000.0)
    stormy, calm = trained(swell, "stormy"), trained(swell, "calm", local={})
    assert (stormy["drains"], stormy["losses"], stormy["steps_lost"]) == (1, 1, 0)
    worlds = [world["world_size"] for world in stormy["generations"]]
    assert worlds[:1] == [3] and worlds[-1] == 3 and {2} <= set(worlds)
    ends = [status["metrics"]["validation_loss"] for status in (stormy, calm)]
    assert max(ends) < stated()
    assert ends[0] == pytest.approx(ends[1], abs=0.01), "float32, added up in other orders"
    one, other = losses_of(swell.run_dir("stormy")), losses_of(swell.run_dir("calm"))
    assert one.keys() == other.keys()
    assert one == pytest.approx(other, rel=0.02)
