"""Disks of a test's own, which can be full, or out of inodes, or read-only."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

with_disks = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")


class Disk:
    """A disk in memory.

    Args:
        path: where it is mounted.
        options: mount's, such as ``size=1m``.
    """

    def __init__(self, path: Path, options: str) -> None:
        self.path = path
        self._options = options
        self._ballast = path / ".ballast"

    def fill(self) -> None:
        """Takes all of its room."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (2**16, 2**12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    def use_up_inodes(self) -> None:
        """Takes all of its inodes."""
        self._ballast.mkdir()
        try:
            for number in range(2**20):
                (self._ballast / str(number)).touch()
        except OSError as error:
            assert error.errno == errno.ENOSPC

    def make_room(self) -> None:
        """Gives back what was taken."""
        if self._ballast.is_dir():
            for file in self._ballast.iterdir():
                file.unlink()
            self._ballast.rmdir()
        else:
            self._ballast.unlink()

    def remount(self, how: str) -> bool:
        """Makes it ``ro`` or ``rw``, unless somebody is just writing. Returns whether it is."""
        command = ["mount", "-o", f"remount,{how},{self._options}", str(self.path)]
        return subprocess.run(command, capture_output=True).returncode == 0


@contextmanager
def disk(path: Path, options: str = "size=1m") -> Iterator[Disk]:
    """A disk that is mounted for the length of the block."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "tmpfs", str(path)]
    subprocess.run(command, check=True)
    try:
        yield Disk(path, options)
    finally:
        # At once for everybody: whoever still has a file open keeps what is left of it.
        subprocess.run(["umount", "--lazy", str(path)], check=True)
