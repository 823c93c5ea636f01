"""Shards are written by another process, which may be killed, and leaves nothing behind."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from traceback import extract_stack
from typing import Any

import psutil
import pytest
import torch

from tests.integration.command import ROOT, until
from tests.processes import children
from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.manifest import committed_steps
from trainer.checkpoints.restore import Alone, load
from trainer.checkpoints.scribe import Scribe
from trainer.checkpoints.shared_memory import Room
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import CHECKPOINTS

LIMIT = 600.0  # seconds; only a test that fails waits so long


def scribes_of(parent: int) -> list[int]:
    """The writing processes that a process has started."""
    return [one.pid for one in children(parent, "trainer.checkpoints.scribe")]


def waits_for_the_answer() -> bool:
    """Whether a thread of this process has asked for something to be written."""
    frames = list(sys._current_frames().values())
    return any("_receive" in (one.name for one in extract_stack(frame)) for frame in frames)


class Rank:
    """One rank whose checkpoints another process writes."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDirectory(str(folder))
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.scribe = Scribe(self.run_dir.url)
        self.checkpointer = Checkpointer(self.run_dir, 9, self._report, scribe=self.scribe)

    def _report(self, event: str, **fields: Any) -> None:
        self.reports.append((event, fields))

    def begin(self) -> int:
        """Saves step 1, and waits until the process is ready. Returns its PID."""
        self.save(1)
        assert self.scribe.ready(LIMIT)
        (scribe,) = scribes_of(os.getpid())
        return scribe

    def save(self, step: int) -> None:
        """Saves as training does, and waits until it is written."""
        assert self.checkpointer.save({"w": torch.full((9, 99), float(step))}, step)
        self.checkpointer.flush()

    def loaded(self, step: int) -> torch.Tensor:
        tree = load(self.run_dir, step, lambda *a, **k: None, Alone(), torch.device("cpu"))
        assert tree is not None
        found: torch.Tensor = tree["w"]
        return found

    def failures(self) -> list[str]:
        return [fields["reason"] for name, fields in self.reports if name == "checkpoint_failed"]


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[Rank]:
    one = Rank(tmp_path)
    yield one
    one.checkpointer.close()
    assert scribes_of(os.getpid()) == []


def test_another_process_writes_and_goes_on_doing_so(rank: Rank) -> None:
    assert scribes_of(os.getpid()) == [], "none before there is something to write"
    scribe = rank.begin()
    os.kill(scribe, signal.SIGSTOP)
    assert rank.checkpointer.save({"w": torch.full((9, 99), 2.0)}, 2)
    until(waits_for_the_answer, LIMIT)
    assert committed_steps(rank.run_dir) == [1], "nobody else writes"
    os.kill(scribe, signal.SIGCONT)
    rank.checkpointer.flush()
    rank.save(3)
    assert scribes_of(os.getpid()) == [scribe]
    assert committed_steps(rank.run_dir) == [1, 2, 3]
    assert torch.equal(rank.loaded(2), torch.full((9, 99), 2.0))
    assert rank.checkpointer.bytes_per_second is not None


def test_nothing_waits_for_the_process_to_start(rank: Rank) -> None:
    rank.scribe.start()
    (scribe,) = scribes_of(os.getpid())
    os.kill(scribe, signal.SIGSTOP)
    rank.save(1)
    rank.save(2)
    assert committed_steps(rank.run_dir) == [1, 2]
    assert not rank.scribe.ready()
    os.kill(scribe, signal.SIGCONT)
    assert rank.scribe.ready(LIMIT)
    rank.save(3)
    assert scribes_of(os.getpid()) == [scribe]
    assert committed_steps(rank.run_dir) == [1, 2, 3]


def test_when_it_is_killed_that_checkpoint_fails_and_the_next_does_not(rank: Rank) -> None:
    scribe = rank.begin()
    os.kill(scribe, signal.SIGSTOP)
    assert rank.checkpointer.save({"w": torch.zeros(3)}, 2)
    until(waits_for_the_answer, LIMIT)
    os.kill(scribe, signal.SIGKILL)
    rank.checkpointer.flush()
    assert rank.failures() == ["the process that writes checkpoints has ended with exit code -9"]
    assert rank.checkpointer.save({"w": torch.zeros(3)}, 3)
    rank.checkpointer.flush()
    assert scribes_of(os.getpid()) not in ([], [scribe]), "another one"
    assert rank.scribe.ready(LIMIT)
    rank.save(4)
    assert committed_steps(rank.run_dir) == [1, 3, 4]


def test_when_it_has_stopped_it_still_ends_with_the_rank(rank: Rank) -> None:
    scribe = rank.begin()
    os.kill(scribe, signal.SIGSTOP)
    rank.checkpointer.close()
    assert not psutil.pid_exists(scribe)


def test_what_the_store_says_is_told(rank: Rank) -> None:
    rank.begin()
    (Path(rank.run_dir.url) / CHECKPOINTS / "step-000000002").write_text("in the way")
    rank.save(2)
    (reason,) = rank.failures()
    assert "step-000000002" in reason
    rank.save(3)
    assert committed_steps(rank.run_dir) == [1, 3]


def test_what_is_urgent_starts_no_process(rank: Rank) -> None:
    assert rank.checkpointer.save({"w": torch.ones(3)}, 1, wait=True)
    assert rank.checkpointer.save({"w": torch.ones(3)}, 2, until=float("inf"))
    rank.checkpointer.flush()
    assert scribes_of(os.getpid()) == []
    assert committed_steps(rank.run_dir) == [1, 2]


def test_the_signals_that_end_a_run_leave_it_at_work(rank: Rank) -> None:
    """They reach all processes of a terminal; the last checkpoint is written after them."""
    scribe = rank.begin()
    for ending in (signal.SIGINT, signal.SIGTERM):
        os.kill(scribe, ending)
    rank.save(2)
    assert scribes_of(os.getpid()) == [scribe]
    assert committed_steps(rank.run_dir) == [1, 2]


TRAINING = """
import sys, time, torch
from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.scribe import Scribe
from trainer.rundir.directory import RunDirectory
url = sys.argv[1]
scribe = Scribe(url)
writes = Checkpointer(RunDirectory(url), 1, lambda *a, **k: None, scribe=scribe)
scribe.start()
assert scribe.ready(60)
print("ready", flush=True)
writes.save({"w": torch.zeros(3)}, 1)
time.sleep(600)
"""


def test_it_goes_with_the_process_that_trains(tmp_path: Path) -> None:
    trains = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with trains:
        assert trains.stdout is not None
        trains.stdout.readline()
        (scribe,) = scribes_of(trains.pid)
        trains.kill()
    until(lambda: _is_dead(scribe), LIMIT)


def test_it_goes_with_it_though_a_child_holds_its_line(tmp_path: Path) -> None:
    """A fork of the process that trains has everything open that it had."""
    forks = "import os\n" + TRAINING.replace(
        'print("ready"', "child = os.fork() or time.sleep(600)\nprint(child"
    )
    trains = subprocess.Popen(
        [sys.executable, "-c", forks, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with trains:
        assert trains.stdout is not None
        child = int(trains.stdout.readline())
        (scribe,) = scribes_of(trains.pid)
        trains.kill()
    try:
        until(lambda: _is_dead(scribe), LIMIT)
        assert not _is_dead(child)
    finally:
        os.kill(child, signal.SIGKILL)


def _is_dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_ends_in_silence_when_training_did_before_it_was_ready(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    command = [sys.executable, "-m", "trainer.checkpoints.scribe", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with theirs:
        done = subprocess.run(command, stdin=theirs.fileno(), stderr=subprocess.PIPE, env=env)
    assert (done.returncode, done.stderr) == (0, b"")


def test_without_memory_for_the_copy_it_fails_and_training_goes_on(rank: Rank) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        rank.save(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (reason,) = rank.failures()
    assert "no memory to copy" in reason
    rank.save(2)
    assert committed_steps(rank.run_dir) == [2]


@pytest.mark.parametrize("size", [0, 1, 4096, 100_000])
def test_a_room_is_memory_that_its_file_descriptor_tells_too(size: int) -> None:
    room = Room(size)
    assert room.memory.shape == (size,) and room.memory.dtype == torch.uint8
    room.memory.fill_(7)
    assert os.pread(room.fd, size, 0) == b"\7" * size


def test_a_room_that_is_gone_gives_everything_back() -> None:
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        Room(1000)
    assert len(os.listdir("/proc/self/fd")) == fds
