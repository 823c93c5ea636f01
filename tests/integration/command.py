"""The ``swell`` command as a user runs it, with a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher import home
from launcher.emulator.state import whereabouts
from launcher.emulator.token import read_token
from launcher.local.emulator import LocalError, Replicas, stop
from launcher.status.history import History
from launcher.status.status import read_status
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader

ROOT = Path(__file__).parents[2]
SLOW = f"{Path(__file__).parent}/slow.py:Slow"  # a task
LIMIT = 600.0  # seconds; only a hang takes as long


class Swell:
    """Runs the command, and knows which processes come from it.

    Args:
        folder: where its home and its job files are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.launches: list[subprocess.Popen[str]] = []

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "launcher.cli", *args],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Runs the command in the background; ``close`` kills it if it still runs then."""
        launch = subprocess.Popen(
            [sys.executable, "-m", "launcher.cli", *args],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.launches.append(launch)
        return launch

    def status(self, run: str) -> dict[str, Any]:
        """What ``swell status RUN --json`` says, but for what it asks an API.

        Read in this process: the command takes half a second of a processor to begin.
        """
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SWELL_HOME", str(self.home))
            known: dict[str, Any] = json.loads(json.dumps(read_status(home.find(run))))
        return known

    def run_dir(self, run: str) -> Path:
        return self.home / "runs" / run

    def processes(self) -> list[int]:
        """Everything that has this home in its command line or environment."""
        return list(self.environments())

    def environments(self) -> dict[int, dict[str, str]]:
        """The environment of each of these processes, by its id, as it was at one moment.

        Read once: whoever asks again may find that a process has gone.
        """
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                arguments, environment = (
                    (entry / name).read_bytes() for name in ("cmdline", "environ")
                )
            except OSError:
                continue
            if os.fsencode(self.home) in arguments + environment and int(entry.name) != os.getpid():
                pairs = environment.decode(errors="replace").split("\0")
                found[int(entry.name)] = dict(one.split("=", 1) for one in pairs if "=" in one)
        return found

    def nothing_is_left(self) -> bool:
        return not self.processes()

    def emulator(self, run: str) -> int:
        """The process id of a run's emulator."""
        where = whereabouts(self.state(run))
        assert where is not None
        return where.pid

    def serves(self, run: str) -> bool:
        """Whether a run's emulator serves."""
        where = whereabouts(self.state(run))
        return where is not None and bool(where.endpoint)

    def vms(self, run: str) -> dict[str, int]:
        """The processes of a run's VMs, by replica; none while no emulator tells."""
        where = whereabouts(self.state(run))
        if where is None or not where.endpoint:
            return {}  # what is written of one that was killed says nothing
        job = str(self.status(run)["attempts"][-1]["job"])
        token = read_token(self.state(run)).text
        try:
            replicas = Replicas(where.endpoint, job, token).list()
        except LocalError:
            return {}
        return {it["replica"]: it["pid"] for it in replicas}

    def state(self, run: str) -> Path:
        """The state of a run's emulator."""
        return self.home / "runs" / run / "local"

    def close(self) -> None:
        for launch in self.launches:
            launch.kill()
            launch.wait()
            assert launch.stdout
            launch.stdout.close()
        until(self._stopped, every=0.5)

    def _stopped(self) -> bool:
        """Stops what launches that were killed have left, one that is only starting, too."""
        for state in self.home.glob("runs/*/local"):
            stop(state)
        return self.nothing_is_left()

    def environment(self) -> dict[str, str]:
        """What the command runs with. Threads that share cores with other tests would spin."""
        ours = {"SWELL_HOME": str(self.home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return {**os.environ, **ours}


def until(condition: Callable[[], object], limit: float = LIMIT, every: float = 0.1) -> None:
    """Waits until ``condition`` holds; after ``limit`` seconds, a hang, the test fails."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(every)


class Progress:
    """How far a run is, by its log: what is new in that is read, and not all of it each time.

    Args:
        run_dir: the run's.
    """

    def __init__(self, run_dir: RunDirectory) -> None:
        self._reader = EventReader(run_dir)
        self._history = History()

    @property
    def step(self) -> int:
        """Steps completed, as far as is known now."""
        for event in self._reader.read_new():
            self._history.add(event)
        return self._history.step


def resumed_at(status: Mapping[str, Any]) -> int:
    """The step from which the first leader but one went on.

    Not that of the second world: one VM may have begun alone, and the others have joined it.
    """
    world = next(one for one in status["generations"] if one["cause"] == "leader")
    step: int = world["step"]
    return step
