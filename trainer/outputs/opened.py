"""Which files in a folder a process is writing, as far as Linux tells.

A file that is open to write is not finished, however long nobody has written: its process may wait
for a disk, for other ranks, or have been stopped.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def opened_to_write(root: Path) -> set[str]:
    """The paths, from ``root``, of files that a process has open to write.

    Processes whose files this one may not see are passed over.
    """
    prefix = f"{root.resolve()}/"
    found = set()
    for process in os.listdir("/proc"):
        if not process.isdecimal():
            continue
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                with suppress(OSError):
                    path = os.readlink(f"/proc/{process}/fd/{descriptor}")
                    if path.startswith(prefix) and _writes(process, descriptor):
                        found.add(path.removeprefix(prefix))
    return found


def _writes(process: str, descriptor: str) -> bool:
    with open(f"/proc/{process}/fdinfo/{descriptor}", encoding="ascii") as info:
        for line in info:
            name, _, value = line.partition(":")
            if name == "flags":
                return int(value, 8) & os.O_ACCMODE != os.O_RDONLY
    return False
