"""The run that nobody disturbs, which all others are held against."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.task import Steerable
from tests.trainer.ranks import alone
from trainer.loop import fit
from trainer.protocol.channel import LoneChannel


def _alone(folder: str) -> dict[str, float]:
    return fit(Steerable(folder), LoneChannel())


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The final parameters of one process that trains alone."""
    parameters: dict[str, float] = alone(_alone, str(tmp_path_factory.mktemp("undisturbed")))
    return parameters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a run keeps everything."""
    return tmp_path
