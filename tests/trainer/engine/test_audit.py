"""The samples of every step, on record before they count."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launcher.status.samples import account, read_audit
from tests.storage import StorageServer
from tests.trainer.rundir.stores import KINDS, new_store
from trainer.engine.audit import Audit
from trainer.protocol.session import Session
from trainer.rundir.directory import RunDirectory


def unheard(event: str, **fields: Any) -> None:
    raise AssertionError(f"{event}: {fields}")


def test_a_line_is_on_record_at_once(tmp_path: Path) -> None:
    audit = Audit.open(Session(run_dir_url=str(tmp_path), writer="w-0-1", audit=True), unheard)
    assert audit is not None
    for step in (1, 2):
        audit.contribute(generation=3, step=step, epoch=0, rank=1, ids=[step, 5], dataset_size=10)
        lines = (tmp_path / "audit" / "w-0-1.jsonl").read_text().splitlines()
        assert json.loads(lines[-1]) == {
            "generation": 3,
            "step": step,
            "epoch": 0,
            "rank": 1,
            "ids": [step, 5],
            "dataset_size": 10,
        }
    assert len(lines) == 2


def test_a_step_that_comes_again_in_its_generation_counts_once(tmp_path: Path) -> None:
    audit = Audit.open(Session(run_dir_url=str(tmp_path), writer="w-0-1", audit=True), unheard)
    assert audit is not None
    audit.contribute(generation=1, step=1, epoch=0, rank=0, ids=[0, 1], dataset_size=3)
    audit.withdraw()  # memory has run out, or something was learned
    audit.contribute(generation=1, step=1, epoch=0, rank=0, ids=[0, 1, 2], dataset_size=3)
    found = account(read_audit(RunDirectory(str(tmp_path))), [(1, 1, 1)], finished=True)
    assert found is not None
    assert (found.repeated, found.skipped, found.left_out) == (0, 0, 0)


def test_who_asks_for_none_gets_none(tmp_path: Path) -> None:
    assert Audit.open(Session(run_dir_url=str(tmp_path)), unheard) is None
    assert Audit.open(Session(audit=True), unheard) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_launcher_reads_what_a_worker_wrote_on_any_store(
    kind: str, tmp_path: Path, server: StorageServer
) -> None:
    with new_store(kind, tmp_path, server) as store:
        audit = Audit(store, "w-0-1")
        for step in (1, 2, 3):
            audit.contribute(generation=1, step=step, epoch=0, rank=0, ids=[step], dataset_size=3)
        run_dir = RunDirectory("memory://elsewhere")
        run_dir.store = store
        assert [line["ids"] for line in read_audit(run_dir)] == [[1], [2], [3]]


class Record:
    """An audit in a folder whose disk may be full, and what it reports."""

    def __init__(self, folder: Path, held: int = 10_000) -> None:
        self.now = 0.0
        self.reports: list[dict[str, Any]] = []
        self.run_dir = RunDirectory(str(folder))
        self.audit = Audit(
            self.run_dir.store, "w-0-1", self._report, held=held, clock=lambda: self.now
        )

    def _report(self, event: str, **fields: Any) -> None:
        self.reports.append({"event": event, **fields})

    def contribute(self, *steps: int) -> None:
        for step in steps:
            self.now += 3.0
            self.audit.contribute(1, step, epoch=0, rank=0, ids=[step], dataset_size=9)

    def steps(self) -> list[int]:
        return [line["step"] for line in read_audit(self.run_dir)]


@contextmanager
def files_of(most: int) -> Iterator[None]:
    """Meanwhile no file can be larger, as on a full disk: what is written last is cut."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("room", [0, 1, 50])
def test_what_a_full_disk_does_not_take_is_held_until_there_is_room(
    tmp_path: Path, room: int
) -> None:
    record = Record(tmp_path)
    record.contribute(1)
    size = (tmp_path / "audit" / "w-0-1.jsonl").stat().st_size
    with files_of(size + room):
        record.contribute(2, 3, 4)
        assert record.steps() == [1]
        assert (tmp_path / "audit" / "w-0-1.jsonl").stat().st_size == size, "nothing is torn"
        assert [(one["event"], one["step"]) for one in record.reports] == [("audit_failed", 2)]
        said = record.audit.unsaved()
        assert said.startswith("the samples of 3 steps since step 2 are not on record: ")
    record.contribute(5, 6, 7)
    assert record.steps() == [1, 2, 3, 4, 5, 6, 7]
    assert record.audit.unsaved() == ""


def test_what_waits_too_long_is_given_up_and_said(tmp_path: Path) -> None:
    record = Record(tmp_path, held=150)
    with files_of(0):
        record.contribute(1, 2, 3, 4)
    record.audit.flush()
    record.contribute(5)
    assert record.steps() == [1, 5]
    assert record.audit.unsaved().startswith("the samples of 3 steps since step 1 are not on")


def test_without_inodes_or_on_a_disk_that_takes_nothing_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("in the way of the folder, which cannot be made")
    record = Record(tmp_path)
    record.contribute(1)
    (tmp_path / "audit").unlink()
    record.audit.flush()
    assert record.steps() == [1]
