"""Fixtures: emulators that are really started."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.emulator.vms.life import kill_all
from tests.launcher.emulator.running import Emulator


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Emulator]]:
    """Starts emulators; at the end none of them and none of their processes is left."""
    started: list[Emulator] = []

    def start_one(*options: str, state: Path = tmp_path / "state") -> Emulator:
        started.append(Emulator(state, "--until-eof", *options))
        return started[-1]

    yield start_one
    for emulator in started:
        if emulator.process.poll() is None:
            assert emulator.stop() == 0
    for emulator in started:
        kill_all(emulator.state / "vms")  # of one that was killed
        try:
            assert emulator.processes() == []
        finally:
            for pid in emulator.processes():
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator without a market that goes on from test to test."""
    emulator = Emulator(tmp_path_factory.mktemp("emulator") / "state", "--until-eof")
    yield emulator
    assert emulator.stop() == 0


@pytest.fixture
def emulator(running: Emulator) -> Iterator[Emulator]:
    """An emulator without a market and without jobs; it forgets this test's, and kills them."""
    with running.turn():
        yield running
