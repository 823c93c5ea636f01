"""The samples of every step, on record before they count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.audit import Audit
from trainer.session import Session


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


def test_an_object_store_is_refused() -> None:
    with pytest.raises(ValueError, match="audit: true needs a local run directory, not memory://x"):
        Audit.open(Session(run_dir_url="memory://x", audit=True))
