"""Processes that the kernel kills for want of memory: really, and only those that a test names."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")
LITTLE = 128 * 1024  # bytes: the next that a process wants is too much


def _root() -> tuple[Path, str] | None:
    """Where cgroups for memory are made, and the file with their limit; version 1 or 2."""
    if (ROOT / "memory/memory.limit_in_bytes").exists():
        return ROOT / "memory", "memory.limit_in_bytes"
    with suppress(OSError):
        if "memory" in (ROOT / "cgroup.subtree_control").read_text().split():
            return ROOT, "memory.max"
    return None


def _possible() -> bool:
    found = _root()
    return os.geteuid() == 0 and found is not None and os.access(found[0], os.W_OK)


with_starvation = pytest.mark.skipif(
    not _possible(), reason="only root can limit memory, and only where cgroups can be made"
)


class Starvation:
    """A group of processes that get no more memory.

    Args:
        folder: the cgroup's.
    """

    def __init__(self, folder: Path) -> None:
        self._processes = folder / "cgroup.procs"

    def take(self, process: int) -> None:
        """The kernel kills this process as soon as it wants more memory than it has."""
        self._processes.write_text(str(process))


@contextmanager
def starvation() -> Iterator[Starvation]:
    """A group of one's own, which is to be empty in the end."""
    found = _root()
    assert found, "see with_starvation"
    root, limit = found
    folder = root / f"swell-test-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        (folder / limit).write_text(str(LITTLE))
        yield Starvation(folder)
    finally:
        for _ in range(600):  # the dead are in it until the kernel has cleared them away
            with suppress(OSError):
                folder.rmdir()
            if not folder.exists():
                break
            time.sleep(0.1)
