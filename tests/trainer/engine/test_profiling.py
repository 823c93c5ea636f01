"""A worker profiles the steps that it is asked to, and writes what it has seen."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.engine.profiling import Profiling
from trainer.protocol.channel import LoneChannel
from trainer.protocol.messages import Profile
from trainer.rundir.directory import RunDirectory

TRACE, TABLE = ".trace.json.gz", ".txt"


class Asked(LoneChannel):
    wishes: tuple[Profile, ...] = ()

    def profiles(self) -> tuple[Profile, ...]:
        return self.wishes


class Worker:
    """Takes steps in generation 3, of which each multiplies once, as rank 1."""

    def __init__(self, folder: Path) -> None:
        self.channel = Asked()
        self.told: list[dict[str, Any]] = []
        self.run_dir = RunDirectory(str(folder))
        emit = lambda name, **fields: self.told.append({"event": name, **fields})  # noqa: E731
        self.profiling = Profiling(self.channel, self.run_dir, emit)

    def ask(self, *wishes: Profile) -> None:
        self.channel.wishes = wishes

    def steps(self, first: int, last: int, generation: int = 3) -> None:
        for step in range(first, last + 1):
            self.profiling.begins(step, generation)
            torch.ones(8, 8).mm(torch.ones(8, 8))

    def seen(self) -> list[tuple[int, int, int]]:
        """Of each profile that was written: the first and last step, and how many had it."""
        self.profiling.close()
        found = []
        for one in self.told:
            (trace,) = (name for name in one["names"] if name.endswith(TRACE))
            text = gzip.decompress(self.run_dir.store.read(trace))
            events = json.loads(text)["traceEvents"]
            found.append(
                (one["first"], one["step"], sum(it.get("name") == "aten::mm" for it in events))
            )
        return found


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path)
    yield worker
    worker.profiling.stop()
    worker.profiling.close()


def test_these_steps_and_no_others_are_in_the_trace(worker: Worker) -> None:
    worker.ask(Profile(7, 3, 1, first=4, last=6))
    worker.steps(1, 9)
    assert worker.seen() == [(4, 6, 3)]
    (told,) = worker.told
    stem = "profiles/000007-g000003-rank-00001"
    assert told["names"] == [f"{stem}{TRACE}", f"{stem}{TABLE}"]
    named = ("profile", "generation", "rank", "count")
    assert [told[name] for name in named] == [7, 3, 1, 3]
    assert "aten::mm" in worker.run_dir.store.read(told["names"][1]).decode()


def test_what_is_asked_late_is_seen_from_then_on_and_once(worker: Worker) -> None:
    worker.steps(1, 5)
    worker.ask(Profile(1, 3, 1, first=4, last=7))
    worker.steps(6, 12)
    assert worker.seen() == [(6, 7, 2)]


def test_a_world_that_is_left_before_the_last_step_leaves_what_was_seen(worker: Worker) -> None:
    worker.ask(Profile(1, 3, 1, first=4, last=9))
    worker.steps(1, 5)
    worker.profiling.stop()
    assert worker.seen() == [(4, 5, 2)]
    worker.steps(6, 9, generation=4)
    assert len(worker.told) == 1, "in another world it is asked anew"


def test_of_two_wishes_the_second_sees_what_the_first_has_left(worker: Worker) -> None:
    worker.ask(Profile(1, 3, 1, first=2, last=3), Profile(2, 3, 1, first=3, last=5, memory=True))
    worker.steps(1, 6)
    assert worker.seen() == [(2, 3, 2), (4, 5, 2)]
    table = worker.run_dir.store.read(worker.told[1]["names"][1]).decode()
    assert "CPU Mem" in table, "what is allocated was asked for"


def test_what_was_seen_is_there_when_the_workers_life_ends(worker: Worker) -> None:
    worker.ask(Profile(1, 3, 1, first=4, last=9))
    worker.steps(1, 5)
    worker.profiling.finish()
    (told,) = worker.told
    assert (told["first"], told["step"]) == (4, 5)
    assert all(worker.run_dir.store.read(name) for name in told["names"])


@pytest.mark.parametrize("fails", ["nowhere", "at the start", "at the snapshot"])
def test_a_gpus_memory_is_recorded_while_it_is_profiled_and_no_longer(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    recording: list[bool] = []

    def record(enabled: str | None = "all", **options: Any) -> None:
        recording.append(enabled is not None)

    def dump(name: str) -> None:
        if fails == "at the snapshot":
            raise RuntimeError("no snapshot")
        Path(name).write_bytes(b"snapshot")

    def broken(**options: Any) -> Any:
        raise RuntimeError("another profiler is running")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", record)
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", dump)
    if fails == "at the start":
        monkeypatch.setattr(torch.profiler, "profile", broken)
    worker.ask(Profile(1, 3, 1, first=1, last=1, memory=True))
    worker.steps(1, 1)
    worker.profiling.finish()
    assert recording == [True, False]
    (told,) = worker.told
    if fails == "nowhere":
        assert worker.run_dir.store.read(told["names"][2]) == b"snapshot"
    else:
        assert told["reason"].startswith("it failed: ") and "names" not in told


def test_a_store_that_takes_nothing_is_told_and_ends_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(worker.run_dir.store, "write", full)
    worker.ask(Profile(1, 3, 1, first=1, last=1))
    worker.steps(1, 3)
    worker.profiling.close()
    (told,) = worker.told
    assert told["reason"] == "it could not be written: No space left on device"
    assert "names" not in told


def test_a_profiler_that_cannot_start_is_told_and_ends_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**options: Any) -> Any:
        raise RuntimeError("another profiler is running")

    monkeypatch.setattr(torch.profiler, "profile", broken)
    worker.ask(Profile(1, 3, 1, first=1, last=1))
    worker.steps(1, 3)
    (told,) = worker.told
    assert told["reason"] == "it failed: another profiler is running"
