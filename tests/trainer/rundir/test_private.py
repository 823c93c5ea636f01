"""What Swell makes on a machine's disk is for its user's eyes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.rundir.private import append_private, make_private, write_private
from trainer.rundir.store import Store


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    """A user who lets everybody do everything."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def test_a_folder_and_those_above_it_are_the_users_alone(tmp_path: Path) -> None:
    make_private(tmp_path / "a/b/c")
    make_private(tmp_path / "a/b/c")
    assert {mode(tmp_path / name) for name in ("a", "a/b", "a/b/c")} == {0o700}


def test_what_is_there_stays_as_its_maker_wants_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)
    make_private(tmp_path / "shared/own")
    make_private(tmp_path / "shared")
    assert mode(tmp_path / "shared") == 0o755
    assert mode(tmp_path / "shared/own") == 0o700


def test_files_that_are_written_or_added_to_are_the_users_alone(tmp_path: Path) -> None:
    write_private(tmp_path / "state.json", "{}")
    for text in (b"one\n", b"two\n"):
        with append_private(tmp_path / "log") as log:
            log.write(text)
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    assert {mode(tmp_path / name) for name in ("state.json", "log")} == {0o600}


def test_what_cannot_be_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_private(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        make_private(tmp_path / "file/in/it")


def test_a_run_directory_is_the_users_alone_whatever_is_written_first(tmp_path: Path) -> None:
    Store(str(tmp_path / "one")).write("checkpoints/step-1/part", b"")
    assert Store(str(tmp_path / "two")).create("run.json", b"")
    assert mode(tmp_path / "one") == mode(tmp_path / "two") == 0o700
