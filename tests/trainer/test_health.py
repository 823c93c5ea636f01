"""Whether an installation can train is tried, not guessed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

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
