"""When what several VMs hold becomes a version that all can be restored to. Pure.

Each VM of a generation writes receipts of what it holds and has copied. A version is the union of
what all of them hold, entry by entry. Every VM holds what was restored to all, so what one of them
has written, or removed, counts more than what others have left as it was. An entry in which
somebody writes still stays in it as it was before; while there is one, loose files stay, too, and
what the script has removed. So that nobody's receipt is from before a checkpoint that others have
begun, the one who commits asks for a round of receipts, and commits what is the same in them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from trainer.outputs.files import (
    Entries,
    File,
    Files,
    entry_of,
    is_complete,
    is_loose,
    kind_of,
    log_stays,
)
from trainer.rundir import formats
from trainer.rundir.bundle import is_plain

FORMAT = formats.Format(1)
PART_NAME = "[0-9]{9}-[0-9]{5}-[0-9]{6}-[0-9a-f]{64}"


@dataclass(frozen=True)
class Receipt:
    """What one VM holds.

    Attributes:
        count: how many VMs its generation has.
        round: the newest round of receipts that it had been asked for when it looked.
        final: whether the script's processes there have ended.
        entries: those that are settled, and copied.
        writing: those that are not, but for loose files that never rest.
        gone: those that it had, and that the script has removed.
        logs: what grows.
        restored: files of entries and logs that are as the generation has found them.
        removed: files that the generation has found there, and that are gone from their entry.
        whole: whether the processes there have ended well.
        hasty: entries that are not settled, and are taken for finished since they have.
    """

    count: int
    round: int = 0
    final: bool = False
    entries: Entries = field(default_factory=dict)
    writing: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    logs: Files = field(default_factory=dict)
    restored: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    whole: bool = False
    hasty: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "count": self.count,
            "round": self.round,
            "final": self.final,
            "entries": {name: _plain(files) for name, files in self.entries.items()},
            "writing": list(self.writing),
            "gone": list(self.gone),
            "logs": _plain(self.logs),
            "times": _times_of(*self.entries.values(), self.logs),
            "restored": list(self.restored),
            "removed": list(self.removed),
            "whole": self.whole,
            "hasty": list(self.hasty),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Receipt:
        """Raises ValueError for what is no receipt."""
        try:
            times = _times(value)
            return cls(
                _whole(value["count"]),
                _whole(value["round"]),
                value["final"] is True,
                _entries(value["entries"], times),
                tuple(map(_name, value["writing"])),
                tuple(map(_name, value["gone"])),
                _files(value["logs"], times),
                tuple(map(_name, value.get("restored", ()))),
                tuple(map(_name, value.get("removed", ()))),
                value.get("whole") is True,
                tuple(map(_name, value.get("hasty", ()))),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no receipt: {error!r}") from None


@dataclass(frozen=True)
class Version:
    """What a generation is restored to.

    Attributes:
        generation: in which it was committed; 0 for nothing.
        number: of those that the generation has committed, from 1.
        entries: what it holds.
        logs: what grew meanwhile.
    """

    generation: int = 0
    number: int = 0
    entries: Entries = field(default_factory=dict)
    logs: Files = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its file's name; of two the later one is the newer."""
        return f"{self.generation:09d}-{self.number:06d}"

    @property
    def files(self) -> Files:
        """All files of all entries, by path."""
        return _flat(self.entries)

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "entries": {name: _plain(files) for name, files in self.entries.items()},
            "logs": _plain(self.logs),
            "times": _times_of(self.files, self.logs),
            **FORMAT.stamp(),
        }

    @classmethod
    def from_json(cls, name: str, value: Mapping[str, Any]) -> Version:
        """Raises ValueError for what is no version, FormatError for a newer one."""
        FORMAT.found(value, f"version {name}")
        generation, _, number = name.partition("-")
        if not (generation.isdecimal() and number.isdecimal()):
            raise ValueError(f"{name[:40]!r} is no version")
        try:
            times = _times(value)
            entries, logs = _entries(value["entries"], times), _files(value["logs"], times)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"version {name} is damaged: {error!r}") from None
        return cls(int(generation), int(number), entries, logs)


def merged(before: Version, receipts: Mapping[int, Receipt]) -> Entries:
    """What a version would hold now.

    Args:
        before: the version that the generation was restored to, or has committed last.
        receipts: of all VMs, by their place in the generation. Of two that have written different
            files under one path, the first counts.
    """
    union = _in_entries(_chosen(receipts, lambda one: _flat(one.entries)))
    writing = {name for receipt in receipts.values() for name in receipt.writing}
    if not all(receipt.final and receipt.whole for receipt in receipts.values()):
        # Who still runs, was killed, or failed, may not even have begun with its part of these.
        writing |= {name for receipt in receipts.values() for name in receipt.hasty}
    gone = {name for receipt in receipts.values() for name in receipt.gone} - writing
    found = {
        name: files
        for name, files in union.items()
        if name not in writing | gone and is_complete(files)
    }
    if (union.keys() | writing) - found.keys() - gone:
        return {**_held(before, found, gone), **_folders(found)}
    return {**{name: there for name, there in before.entries.items() if name not in gone}, **found}


def merged_logs(receipts: Mapping[int, Receipt]) -> Files:
    """All logs, chosen in the same way."""
    return _chosen(receipts, lambda one: one.logs)


def _chosen(receipts: Mapping[int, Receipt], files: Callable[[Receipt], Files]) -> Files:
    """Of each path what a VM has written; else what is restored, unless a VM has removed it."""
    in_order = [receipt for _, receipt in sorted(receipts.items())]
    removed = {path for receipt in in_order for path in receipt.removed}
    written: Files = {}
    restored: Files = {}
    for receipt in in_order:
        as_found = set(receipt.restored)
        for path, file in files(receipt).items():
            if path not in as_found:
                written.setdefault(path, file)
            elif path not in removed:
                restored.setdefault(path, file)
    return {**restored, **written}


def _flat(entries: Entries) -> Files:
    return {path: file for files in entries.values() for path, file in files.items()}


def _in_entries(files: Files) -> Entries:
    found: Entries = {}
    for path, file in files.items():
        found.setdefault(entry_of(path), {})[path] = file
    return found


def _folders(entries: Entries) -> Entries:
    return {name: files for name, files in entries.items() if not is_loose(name, files)}


def _held(before: Version, found: Entries, gone: Set[str]) -> Entries:
    """What stays from the version before while something is written.

    A script that keeps one checkpoint removes it when the next one is there, which is not copied by
    then; and a loose file may name one that is gone. A checkpoint that another one replaces goes
    all the same where there are no loose files, or all would be kept while there is no rest.
    """
    replaced: set[str] = set()
    if _folders(before.entries) == before.entries:
        replaced = {kind_of(name) for name in found}
    return {
        name: files
        for name, files in before.entries.items()
        if name not in gone or kind_of(name) not in replaced
    }


class Committer:
    """Decides, on the VM of rank 0, when there is another version.

    Args:
        before: what the generation was restored to.
        generation: its number.

    Attributes:
        round: the newest round of receipts that is asked for.
    """

    def __init__(self, before: Version, generation: int) -> None:
        self.round = 0
        self._newest = before
        self._generation = generation
        self._candidate: Entries | None = None

    def consider(self, receipts: Mapping[int, Receipt]) -> Version | None:
        """Takes the newest receipts, by VM. Returns the version that is to be written now.

        ``committed`` is to be called when it is. When ``round`` has risen, that round is to be
        asked for.
        """
        if not receipts or len(receipts) < next(iter(receipts.values())).count:
            return None
        there, logs = merged(self._newest, receipts), merged_logs(receipts)
        ended = all(one.final for one in receipts.values())
        if there == self._newest.entries and not (ended and logs != self._newest.logs):
            self._candidate = None
            return None
        if not ended:
            asked_of = self._candidate
            if asked_of is not None and any(
                one.round < self.round and not one.final for one in receipts.values()
            ):
                return None  # not all have answered
            if there != asked_of:
                self._candidate = there
                self.round += 1
            if asked_of is None:
                return None
            there = self._unchanged(asked_of, there)
            if there == self._newest.entries:
                return None
        same = self._newest.generation == self._generation
        number = self._newest.number + 1 if same else 1
        others: set[str] = set()
        for receipt in receipts.values():
            others.update(receipt.entries, receipt.writing)
        kept = {path: file for path, file in logs.items() if log_stays(path, there, others)}
        return Version(self._generation, number, there, kept)

    def _unchanged(self, before: Entries, there: Entries) -> Entries:
        """What was the same a round before; all else as it is in the newest version."""
        if before == there:
            return there
        found = {name: files for name, files in there.items() if before.get(name) == files}
        for name, files in self._newest.entries.items():
            if name not in found and (name in before or name in there):
                found[name] = files
        return found

    def committed(self, version: Version) -> None:
        """The version is written."""
        self._newest = version


# --- JSON, read strictly ------------------------------------------------------------------


def _plain(files: Files) -> dict[str, Any]:
    return {path: file.link or [file.size, *file.parts] for path, file in files.items()}


def _times_of(*trees: Files) -> dict[str, int]:
    return {path: file.time for files in trees for path, file in files.items() if file.time}


def _times(value: Mapping[str, Any]) -> dict[str, int]:
    """When files were written; of what an older Swell has written, nobody knows it."""
    return {path: _time(written) for path, written in value.get("times", {}).items()}


def _time(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{str(value)[:20]!r} is no time")
    return value


def _entries(value: Mapping[str, Any], times: Mapping[str, int]) -> Entries:
    found = {_name(name): _files(files, times) for name, files in value.items()}
    if any(path.partition("/")[0] != name for name, files in found.items() for path in files):
        raise ValueError("a file is not in its entry")
    return found


def _files(value: Mapping[str, Any], times: Mapping[str, int]) -> Files:
    return {_name(path): _file(content, times.get(path, 0)) for path, content in value.items()}


def _file(value: Any, written: int) -> File:
    if isinstance(value, str):
        return File(0, (), _name(value), written)
    size, *parts = value
    return File(_whole(size), tuple(map(_part, parts)), time=written)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not is_plain(value):
        raise ValueError(f"{str(value)[:60]!r} is no path inside the output folder")
    return value


def _part(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(PART_NAME, value):
        raise ValueError(f"{str(value)[:90]!r} is no part's name")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{str(value)[:20]!r} is no number of bytes")
    return value
