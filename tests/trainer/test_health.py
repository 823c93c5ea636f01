"""Whether an installation can train is tried, not guessed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from trainer.health import Unfit, measure

CPU = torch.version.cuda is None


def health(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer.health", *options], capture_output=True, text=True
    )


def test_this_installation_can_train_and_says_what_it_is() -> None:
    done = health("--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["torch"] == torch.__version__ and found["horovod"] == "0.28.1"


@pytest.mark.skipif(not CPU, reason="this installation is for GPUs")
def test_one_for_cpus_is_no_image_for_gpus() -> None:
    done = health("--variant", "gpu")
    assert done.returncode == 1
    assert done.stderr.startswith("This installation cannot train: a GPU image needs PyTorch")


def test_a_machine_is_measured() -> None:
    found = measure(size=2**20, side=64, times=2)
    assert found.memory > 1e6 and found.matmul > 1e6


def test_a_machine_that_multiplies_wrongly_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.matmul

    def wrong(left: torch.Tensor, other: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        right(left, other, out=out)
        out[3, 5] += 1
        return out

    monkeypatch.setattr(torch, "matmul", wrong)
    with pytest.raises(Unfit, match="a product of matrices is wrong on cpu"):
        measure(size=2**10, side=64, times=1)
