"""The ``swell`` command, and the proof that nothing of it is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.command import Swell


@pytest.fixture
def swell(tmp_path: Path) -> Iterator[Swell]:
    swell = Swell(tmp_path)
    yield swell
    swell.close()
