"""The runs that nobody disturbs, which all others are held against."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tests.chaos.run import Undisturbed
from tests.chaos.task import Steerable
from tests.trainer.ranks import alone
from trainer.loop import fit
from trainer.protocol.channel import LoneChannel


def _alone(folder: str, epochs: int) -> dict[str, float]:
    return fit(Steerable(folder, epochs), LoneChannel())


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The final parameters of one process that trains alone for so many epochs."""

    @cache
    def of(epochs: int) -> dict[str, float]:
        folder = tmp_path_factory.mktemp("undisturbed")
        parameters: dict[str, float] = alone(_alone, str(folder), epochs)
        return parameters

    return of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a run keeps everything."""
    return tmp_path
