"""The samples of every step, on record before they count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.status.samples import read_audit
from tests.storage import StorageServer
from tests.trainer.rundir.stores import KINDS, new_store
from trainer.engine.audit import Audit
from trainer.protocol.session import Session
from trainer.rundir.directory import RunDirectory


def test_a_line_is_on_record_at_once(tmp_path: Path) -> None:
    audit = Audit.open(Session(run_dir_url=str(tmp_path), writer="w-0-1", audit=True))
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


def test_who_asks_for_none_gets_none(tmp_path: Path) -> None:
    assert Audit.open(Session(run_dir_url=str(tmp_path))) is None
    assert Audit.open(Session(audit=True)) is None
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
