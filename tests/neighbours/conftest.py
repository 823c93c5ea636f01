"""An emulator of each kind of VM, with a job that runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.emulator.running import Emulator
from tests.neighbours.places import KINDS, running_job


@pytest.fixture(params=KINDS)
def emulator(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Emulator]:
    """An emulator, one of whose jobs has a VM that runs."""
    emulator = Emulator(tmp_path / "state", "--until-eof", "--vm", request.param)
    try:
        running_job(emulator)
        yield emulator
    finally:
        assert emulator.stop() == 0
