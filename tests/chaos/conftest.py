"""The run that nobody disturbs, which all others are held against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.cluster import ROOT

UNDISTURBED = """
import json, sys
from tests.chaos.task import Steerable
from trainer.protocol.channel import LoneChannel
from trainer.loop import fit
print(json.dumps(fit(Steerable(sys.argv[1]), LoneChannel())))
"""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The final parameters of one process that trains alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    answer = subprocess.run(
        [sys.executable, "-c", UNDISTURBED, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    parameters: dict[str, float] = json.loads(answer.stdout)
    return parameters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a run keeps everything."""
    return tmp_path
