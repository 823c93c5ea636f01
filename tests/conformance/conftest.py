"""The fleet that all cases use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.fleet import Fleet


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Processes that train one case after another."""
    fleet = Fleet()
    yield fleet
    fleet.close()
