"""The leader compacts, beside what it does, and leaves off when it leads no longer."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from tests.trainer.coordinator.leader import leading
from tests.trainer.rundir.compacted import fail, watched
from trainer.coordinator import coordinator
from trainer.coordinator.compactor import Compactor
from trainer.rundir.compaction import DUE
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventWriter, read_events
from trainer.rundir.segments import index_name, read_index

EVERY = 0.01  # seconds


def write(run_dir: RunDirectory, writer: str, batches: int = DUE) -> None:
    events = EventWriter(run_dir, writer)
    for step in range(batches):
        events.emit("evaluated", step=step, metrics={})
        events.flush()


def compactors() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "swell-compactor"]


def until_covered(run_dir: RunDirectory, writer: str, batches: int = DUE) -> None:
    while read_index(run_dir).covers.get(writer, 0) < batches:
        time.sleep(EVERY)


def test_a_leader_compacts_as_long_as_it_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "Compactor", partial(Compactor, every=EVERY))
    run_dir = RunDirectory(str(tmp_path))
    before = compactors()

    async def body() -> None:
        async with leading(tmp_path):
            write(run_dir, "agent")
            await asyncio.to_thread(until_covered, run_dir, "agent")
        for thread in compactors():
            if thread not in before:
                await asyncio.to_thread(thread.join)

    asyncio.run(body())
    assert sum(event["event"] == "evaluated" for event in read_events(run_dir)) == DUE


def test_it_goes_on_when_the_store_was_away(tmp_path: Path) -> None:
    run_dir = RunDirectory(str(tmp_path))
    write(run_dir, "agent")
    away, store = watched(run_dir)
    failed = threading.Event()

    def fail_once() -> None:
        if not failed.is_set():
            failed.set()
            fail()

    store.before = fail_once
    compactor = Compactor(away, every=EVERY)
    until_covered(run_dir, "agent")
    assert failed.is_set()
    compactor.stop()


def test_it_leaves_what_it_does_not_understand(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = RunDirectory(str(tmp_path))
    run_dir.store.write(index_name(1), b"{")
    before = compactors()
    Compactor(run_dir, every=EVERY)
    for thread in compactors():
        if thread not in before:
            thread.join()
    assert "events are not compacted any more" in caplog.text
    assert "events/index/000000001.json is damaged" in caplog.text
