"""The disks that a run writes to on this machine: which of them take nothing more, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from launcher import home
from trainer.rundir.directory import RunDirectory

READ_ONLY = "is read-only"
LEAST = 2**20  # bytes; below that a disk is as good as full


def troubles_of(run_id: str, run_dir: RunDirectory, target: str) -> list[str]:
    """Returns a line for each disk of this machine that a run writes to in vain."""
    places = {}
    if run_dir.store.is_local:
        places["the run directory"] = Path(run_dir.url)
    if target == "local":
        places["the replicas' logs"] = home.local_folder(run_id)
    return full_disks(places)


def full_disks(
    places: Mapping[str, Path], statvfs: Callable[[Path], os.statvfs_result] = os.statvfs
) -> list[str]:
    """Returns a line for each disk that takes nothing more.

    Args:
        places: what is written there, in words, and the folder.
        statvfs: see os.statvfs.
    """
    found: dict[tuple[Path, str], list[str]] = {}
    for what, folder in places.items():
        try:
            why = _why(statvfs(folder))
        except OSError:  # not there yet, or not any more
            continue
        if why:
            found.setdefault((_disk_of(folder), why), []).append(what)
    return [
        f"the disk {disk} {why}: {' and '.join(what)} cannot be written; "
        f"{'mount it anew' if why == READ_ONLY else 'make room there'}, the run goes on"
        for (disk, why), what in found.items()
    ]


def _why(disk: os.statvfs_result) -> str:
    if disk.f_flag & os.ST_RDONLY:
        return READ_ONLY
    free = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
    if free * disk.f_frsize < LEAST:
        return "is full"
    if disk.f_files and not disk.f_ffree:
        return "has no inodes left"
    return ""


def _disk_of(folder: Path) -> Path:
    """The folder where the disk is mounted."""
    folder = folder.resolve()
    device = folder.stat().st_dev
    while folder.parent != folder and folder.parent.stat().st_dev == device:
        folder = folder.parent
    return folder
