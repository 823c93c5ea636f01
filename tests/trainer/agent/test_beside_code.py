"""Files that a program has written beside its code: told of when they are about to end."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from trainer.agent.beside_code import mark_ready, tell, written
from trainer.protocol.session import CodeSettings


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder of code that was brought a while ago."""
    folder = tmp_path / "hash" / "code"
    (folder / "deep").mkdir(parents=True)
    (folder / "train.py").write_text("x = 1")
    (folder / "deep/lib.py").write_text("y = 2")
    mark_ready(folder)
    while not _later(tmp_path):
        time.sleep(0.001)
    return folder


def _later(folder: Path) -> bool:
    """Whether the clock of files has gone on since the code was there; it goes by ticks."""
    (folder / "clock").write_text("")
    return (folder / "clock").stat().st_mtime_ns > (folder / "hash/ready").stat().st_mtime_ns


def told(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    tell(
        CodeSettings("hash", 1, folder=str(folder)),
        lambda name, **fields: found.append({"event": name} | fields),
    )
    return found


def test_a_program_that_has_written_nothing_is_no_news(code: Path) -> None:
    (code / "deep/__pycache__").mkdir()
    (code / "deep/__pycache__/lib.cpython-311.pyc").write_bytes(b"x")
    assert written(code) == [] and told(code) == []


def test_what_it_has_written_and_changed_is_named(code: Path) -> None:
    (code / "ckpt").mkdir()
    (code / "ckpt/last.pt").write_bytes(b"weights")
    (code / "deep/lib.py").write_text("y = 3")
    assert written(code) == ["ckpt/last.pt", "deep/lib.py"]
    (event,) = told(code)
    assert event["event"] == "unsaved_files" and event["files"] == 2
    assert "has written ckpt/last.pt, deep/lib.py beside its code" in event["reason"]
    assert "SW5028" in event["reason"]


def test_of_many_files_three_are_named(code: Path) -> None:
    for number in range(5):
        (code / f"{number}.pt").write_text("")
    (event,) = told(code)
    assert event["files"] == 5 and "0.pt, 1.pt, 2.pt and 2 more" in event["reason"]


def test_a_copy_with_the_times_of_another_file_counts(code: Path) -> None:
    source = code.parent / "source"
    source.write_text("old")
    os.utime(source, (1.0, 1.0))
    shutil.copy2(source, code / "best.pt")
    assert written(code) == ["best.pt"]


def test_an_agent_that_is_started_again_still_knows_what_the_program_has_written(
    code: Path,
) -> None:
    (code / "last.pt").write_text("")
    mark_ready(code)
    assert written(code) == ["last.pt"]


def test_without_code_or_a_mark_nothing_is_claimed(code: Path) -> None:
    tell(None, lambda name, **fields: pytest.fail(name))
    (code / "last.pt").write_text("")
    (code.parent / "ready").unlink()
    assert written(code) == [] and told(code) == []
