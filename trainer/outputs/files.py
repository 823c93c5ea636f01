"""What is in an output folder: files by their paths, in entries that are committed whole. Pure.

An *entry* is what lies directly in the folder: a checkpoint's folder with all in it, or one file.
Logs are no part of their entry: they grow all the time, and any beginning of one is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

LOGS = ("*.log", "*.txt", "*.csv", "*.jsonl", "*tfevents*")


@dataclass(frozen=True)
class Stamp:
    """What tells that a file has changed, without reading it."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class File:
    """The content of a file: its size in bytes, and the names of its parts in the store.

    A name is GENERATION-VM-NUMBER-SHA256. It is never given to another upload, even of the same
    bytes: what is deleted is then never what somebody has just taken for uploaded.
    """

    size: int
    parts: tuple[str, ...]


Files = dict[str, File]  # by path, from the output folder
Entries = dict[str, Files]  # by name


def entry_of(path: str) -> str:
    """The name of the entry that a path is in."""
    return path.partition("/")[0]


def kind_of(entry: str) -> str:
    """What entries have in common that follow each other: their names but for the numbers."""
    return re.sub(r"\d+", "#", entry)


def is_log(path: str) -> bool:
    """Whether a file grows all the time, by its name."""
    return any(fnmatch(path.rpartition("/")[2], pattern) for pattern in LOGS)


def by_entry(paths: Iterable[str]) -> dict[str, list[str]]:
    """The paths in each entry, but for logs."""
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        if not is_log(path):
            found.setdefault(entry_of(path), []).append(path)
    return found


def is_complete(files: Mapping[str, File]) -> bool:
    """Whether an entry has what its library writes last, if that is known of it.

    It is looked for and not read. torch.distributed.checkpoint writes ``.metadata`` when all ranks
    have written; transformers' Trainer ends a checkpoint with ``trainer_state.json``.
    """
    names = {path.rpartition("/")[2] for path in files}
    if any(name.endswith(".distcp") for name in names) and ".metadata" not in names:
        return False
    for path in files:
        name = entry_of(path)
        of_trainer = fnmatch(name, "checkpoint-[0-9]*") and "/" in path
        if of_trainer and _looks_like_trainer(names) and "trainer_state.json" not in names:
            return False
    return True


def _looks_like_trainer(names: set[str]) -> bool:
    return bool(names & {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"})


class Settling:
    """Which entries are not being written any more.

    Args:
        quiet: seconds without a change after which an entry is settled.
    """

    def __init__(self, quiet: float) -> None:
        self._quiet = quiet
        self._seen: dict[str, tuple[dict[str, Stamp], float]] = {}

    def observe(self, stamps: Mapping[str, Stamp], now: float) -> set[str]:
        """Takes in what there is at ``now`` (monotonic seconds). Returns the settled entries."""
        there = by_entry(stamps)
        for name, paths in there.items():
            newest = {path: stamps[path] for path in paths}
            known = self._seen.get(name)
            if known is None or known[0] != newest:
                self._seen[name] = newest, now
        self._seen = {name: seen for name, seen in self._seen.items() if name in there}
        return {name for name, (_, since) in self._seen.items() if now - since >= self._quiet}

    def adopt(self, stamps: Mapping[str, Stamp], now: float) -> None:
        """All that there is has been restored, and is settled."""
        self._seen = {
            name: ({path: stamps[path] for path in paths}, now - self._quiet)
            for name, paths in by_entry(stamps).items()
        }
