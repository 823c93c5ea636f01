"""What is in an output folder: files by their paths, in entries that are committed whole. Pure.

An *entry* is what lies directly in the folder: a checkpoint's folder with all in it, or one file.
Such a *loose* file may belong to others: the optimizer's beside the model's, or one that names the
newest checkpoint. So loose files are taken together, when nothing is being written.
Logs are no part of their entry: they grow all the time, and any beginning of one is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatch

LOGS = ("*.log", "*.txt", "*.csv", "*.jsonl", "*tfevents*")
POINTERS = ("last*", "latest*")  # such as Megatron's latest_checkpointed_iteration.txt: no logs
RESTLESS = 20.0  # seconds of changes after which a loose file holds nothing up any more


@dataclass(frozen=True)
class Stamp:
    """What tells that a file has changed, without reading it; of a link, where it leads."""

    size: int
    mtime_ns: int
    inode: int
    link: str = ""


@dataclass(frozen=True)
class File:
    """The content of a file: its size in bytes, and the names of its parts in the store.

    A name is GENERATION-VM-NUMBER-SHA256. It is never given to another upload, even of the same
    bytes: what is deleted is then never what somebody has just taken for uploaded.

    A symbolic link to something in the folder has no parts, but ``link``, a path from the folder.
    ``time`` is when it was written, in nanoseconds; 0 where nobody has said so. Scripts look for
    the newest checkpoint by it, so it is a part of the content.
    """

    size: int
    parts: tuple[str, ...]
    link: str = ""
    time: int = 0


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
    name = path.rpartition("/")[2]
    if any(fnmatch(name.lower(), pattern) for pattern in POINTERS):
        return False
    return any(fnmatch(name, pattern) for pattern in LOGS)


def log_stays(log: str, entries: Collection[str], others: Collection[str]) -> bool:
    """Whether a log is kept beside a version: not in what would be half a checkpoint.

    Args:
        log: its path. Tokenizers, too, have files called as logs are.
        entries: the version's.
        others: all that there are of files that are no logs.
    """
    entry = entry_of(log)
    alone = entry not in others and kind_of(entry) == entry  # logs/ is, checkpoint-5/ is not
    return entry == log or entry in entries or alone


def is_loose(name: str, files: Iterable[str]) -> bool:
    """Whether an entry is a file by itself, by its name and the paths in it."""
    return name in files


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
        of_trainer = fnmatch(name, "checkpoint-[0-9]*") and "training_args.bin" in names
        if of_trainer and "trainer_state.json" not in names:
            return False
    return True


class Settling:
    """Which entries are not being written any more.

    Args:
        quiet: seconds without a change after which an entry is settled.

    Attributes:
        restless: loose files that change all the time: a state of affairs, and no checkpoint.
    """

    def __init__(self, quiet: float) -> None:
        self.restless: set[str] = set()
        self._quiet = quiet
        self._seen: dict[str, tuple[dict[str, Stamp], float]] = {}
        self._settled: set[str] = set()  # at the last look
        self._rested: dict[str, float] = {}  # when they were settled last, or seen first

    def observe(
        self, stamps: Mapping[str, Stamp], now: float, opened: Callable[[], Set[str]] = frozenset
    ) -> set[str]:
        """Takes in what there is at ``now`` (monotonic seconds). Returns the settled entries.

        Args:
            stamps: all files.
            now: the time.
            opened: returns those that a process has open to write; asked when it matters.
        """
        there = by_entry(stamps)
        for name, paths in there.items():
            newest = {path: stamps[path] for path in paths}
            known = self._seen.get(name)
            if known is None or known[0] != newest:
                self._seen[name] = newest, now
        self._seen = {name: seen for name, seen in self._seen.items() if name in there}
        settled = self._quiet_ones(now)
        if settled - self._settled:
            open_files = opened()
            for name in settled - self._settled:
                if not open_files.isdisjoint(there[name]):
                    self._seen[name] = self._seen[name][0], now
            settled = self._quiet_ones(now)
        self._settled = settled
        self._rested = {
            name: now if name in settled else self._rested.get(name, now) for name in there
        }
        self.restless = {
            name
            for name, since in self._rested.items()
            if is_loose(name, there[name]) and now - since >= RESTLESS
        }
        return settled

    def _quiet_ones(self, now: float) -> set[str]:
        return {name for name, (_, since) in self._seen.items() if now - since >= self._quiet}

    def adopt(self, stamps: Mapping[str, Stamp], now: float) -> None:
        """All that there is has been restored, and is settled."""
        self._seen = {
            name: ({path: stamps[path] for path in paths}, now - self._quiet)
            for name, paths in by_entry(stamps).items()
        }
        self._settled = set(self._seen)
        self._rested = dict.fromkeys(self._seen, now)
