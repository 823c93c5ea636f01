"""Which disks take nothing more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher import disks
from launcher.disks import full_disks, troubles_of
from trainer.rundir.directory import RunDirectory

ROOM = {"f_bfree": 10_000, "f_bavail": 10_000, "f_ffree": 50, "f_files": 100, "f_flag": 0}


def told(path: Path, **differs: int) -> list[str]:
    disk = {**ROOM, **differs}
    fields = (4096, 4096, 10**6, disk["f_bfree"], disk["f_bavail"], disk["f_files"])
    result = os.statvfs_result((*fields, disk["f_ffree"], disk["f_ffree"], disk["f_flag"], 255))
    return full_disks({"its run directory": path, "its logs": path}, lambda _: result)


@pytest.mark.parametrize(
    "differs, why",
    [
        ({"f_bfree": 0, "f_bavail": 0}, "is full"),
        ({"f_bfree": 100, "f_bavail": 100}, "is full"),
        ({"f_ffree": 0}, "has no inodes left"),
        ({"f_flag": os.ST_RDONLY}, "is read-only"),
    ],
)
def test_one_that_takes_nothing_is_named_once(
    tmp_path: Path, differs: dict[str, int], why: str
) -> None:
    [line] = told(tmp_path, **differs)
    assert f" {why}: its run directory and its logs cannot be written" in line
    disk = Path(line.partition(f" {why}")[0].removeprefix("the disk "))
    assert os.path.ismount(disk) and tmp_path.is_relative_to(disk)


@pytest.mark.parametrize("differs", [{}, {"f_ffree": 0, "f_files": 0}])
def test_one_with_room_is_not_spoken_of(tmp_path: Path, differs: dict[str, int]) -> None:
    """Nor is one that does not count its inodes, as btrfs."""
    assert told(tmp_path, **differs) == []


def test_a_folder_that_is_not_there_is_none_of_its_matters(tmp_path: Path) -> None:
    assert full_disks({"its logs": tmp_path / "none"}) == []


def test_a_run_is_told_of_the_disks_that_it_writes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Path]] = []

    def full(places: dict[str, Path]) -> list[str]:
        asked.append(places)
        return ["full"]

    monkeypatch.setattr(disks, "full_disks", full)
    monkeypatch.setenv("SWELL_HOME", str(tmp_path))
    here, elsewhere = RunDirectory(str(tmp_path / "r")), RunDirectory("memory://r")
    assert troubles_of("one", here, "local") == ["full"]
    troubles_of("one", elsewhere, "local")
    troubles_of("one", elsewhere, "vertex")
    logs = tmp_path / "runs" / "one" / "local"
    assert asked == [
        {"the run directory": tmp_path / "r", "the replicas' logs": logs},
        {"the replicas' logs": logs},
        {},
    ]
