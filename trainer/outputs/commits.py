"""When what several VMs hold becomes a version that all can be restored to. Pure.

Each VM of a generation writes receipts of what it holds and has copied. A version is the union of
what all of them hold, entry by entry. An entry in which somebody writes still stays in it as it was
before; while there is one, loose files stay, too, and what the script has removed. So that nobody's
receipt is from before a checkpoint that others have begun, the one who commits asks for a round of
receipts, and commits what is the same in them all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from trainer.outputs.files import Entries, File, Files, is_complete, is_loose, kind_of, log_stays
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
    """

    count: int
    round: int = 0
    final: bool = False
    entries: Entries = field(default_factory=dict)
    writing: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    logs: Files = field(default_factory=dict)

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
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Receipt:
        """Raises ValueError for what is no receipt."""
        try:
            return cls(
                _whole(value["count"]),
                _whole(value["round"]),
                value["final"] is True,
                _entries(value["entries"]),
                tuple(map(_name, value["writing"])),
                tuple(map(_name, value["gone"])),
                _files(value["logs"]),
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
        return {path: file for files in self.entries.values() for path, file in files.items()}

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "entries": {name: _plain(files) for name, files in self.entries.items()},
            "logs": _plain(self.logs),
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
            entries, logs = _entries(value["entries"]), _files(value["logs"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"version {name} is damaged: {error!r}") from None
        return cls(int(generation), int(number), entries, logs)


def merged(before: Version, receipts: Mapping[int, Receipt]) -> Entries:
    """What a version would hold now.

    Args:
        before: the version that the generation was restored to, or has committed last.
        receipts: of all VMs, by their place in the generation. Of two that hold different files
            under one path, the first counts.
    """
    union: Entries = {}
    for _, receipt in sorted(receipts.items()):
        for name, files in receipt.entries.items():
            union[name] = {**files, **union.get(name, {})}
    writing = {name for receipt in receipts.values() for name in receipt.writing}
    gone = {name for receipt in receipts.values() for name in receipt.gone} - writing
    found = {
        name: files
        for name, files in union.items()
        if name not in writing | gone and is_complete(files)
    }
    if (union.keys() | writing) - found.keys() - gone:
        return {**_held(before, found, gone), **_folders(found)}
    return {**{name: there for name, there in before.entries.items() if name not in gone}, **found}


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
        there = merged(self._newest, receipts)
        if there == self._newest.entries:
            self._candidate = None
            return None
        if not all(one.final for one in receipts.values()):
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
        logs: Files = {}
        others: set[str] = set()
        for _, receipt in sorted(receipts.items(), reverse=True):
            logs.update(receipt.logs)
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


def _entries(value: Mapping[str, Any]) -> Entries:
    found = {_name(name): _files(files) for name, files in value.items()}
    if any(path.partition("/")[0] != name for name, files in found.items() for path in files):
        raise ValueError("a file is not in its entry")
    return found


def _files(value: Mapping[str, Any]) -> Files:
    return {_name(path): _file(content) for path, content in value.items()}


def _file(value: Any) -> File:
    if isinstance(value, str):
        return File(0, (), _name(value))
    size, *parts = value
    return File(_whole(size), tuple(map(_part, parts)))


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
