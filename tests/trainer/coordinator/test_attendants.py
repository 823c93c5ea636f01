"""A leader reads who looks after the run: of who has left once, and not at each look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.coordinator.attendants import Records, read_attendants
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ATTENDANTS


def test_who_has_left_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = RunDirectory(str(tmp_path))
    run_dir.write_json(f"{ATTENDANTS}/000001.json", {"beat": 7, "left": True})
    run_dir.write_json(f"{ATTENDANTS}/000002.json", {"beat": 1})
    read: list[str] = []
    find = run_dir.find_json

    def find_and_note(name: str) -> dict[str, Any] | None:
        read.append(name)
        return find(name)

    monkeypatch.setattr(run_dir, "find_json", find_and_note)
    known: Records = {}
    for beat in (1, 2, 3):
        run_dir.write_json(f"{ATTENDANTS}/000002.json", {"beat": beat})
        known = read_attendants(run_dir, known)
        assert known == {"000001.json": {"beat": 7, "left": True}, "000002.json": {"beat": beat}}
    assert [Path(name).name for name in read] == ["000001.json", *["000002.json"] * 3]


def test_a_damaged_record_keeps_no_other(tmp_path: Path) -> None:
    run_dir = RunDirectory(str(tmp_path))
    run_dir.store.write(f"{ATTENDANTS}/000001.json", b"{")
    run_dir.write_json(f"{ATTENDANTS}/000002.json", {"beat": 1})
    assert read_attendants(run_dir, {}) == {"000002.json": {"beat": 1}}
