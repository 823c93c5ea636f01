"""A torchrun script's output folder, kept in the run directory while it is written.

The layout::

    output/parts/<name>                        32 MiB of a file, at most: written once
    output/rounds/<generation>/<round>         receipts are asked for
    output/receipts/<generation>/<vm>-<n>.json what a VM holds; its newest counts
    output/versions/<generation>-<n>.json      a manifest, written last: the folder can be restored

Nothing but a manifest says that there is a version, and a manifest is written only when all that it
names is there. What a writer leaves behind that is interrupted is parts that nobody names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from contextlib import suppress
from functools import partial
from pathlib import Path

from trainer.outputs.commits import Committer, Receipt, Version
from trainer.outputs.files import Entries, Files, Settling, Stamp, by_entry, entry_of, is_log
from trainer.outputs.folder import PART, Folder, digest
from trainer.outputs.opened import opened_to_write
from trainer.rundir.bundle import is_plain
from trainer.rundir.directory import RunDirectory
from trainer.rundir.formats import FormatError

OUTPUT = "output"
PARTS = f"{OUTPUT}/parts"
ROUNDS = f"{OUTPUT}/rounds"
RECEIPTS = f"{OUTPUT}/receipts"
VERSIONS = f"{OUTPUT}/versions"
QUIET = 3.0  # seconds without a change after which an entry is taken for finished
KEEP = 3  # versions
LISTS = 512 * 2**20  # bytes of a list of files: of some two million


class Outputs:
    """One VM's end of it. Its methods block, and are called one at a time.

    Args:
        run_dir: the run directory.
        root: the folder on this VM.
        quiet: see QUIET.
        clock: monotonic seconds.
        opened: returns the files in a folder that processes have open to write.

    Attributes:
        root: the folder on this VM.
        nameless: entries in which a file has a name that cannot be saved, nor can the entry, then.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        root: Path,
        quiet: float = QUIET,
        clock: Callable[[], float] = time.monotonic,
        opened: Callable[[Path], Set[str]] = opened_to_write,
    ) -> None:
        self.root = root
        self.nameless: set[str] = set()
        self._opened = partial(opened, root)
        self._run_dir = run_dir
        self._folder = Folder(root)
        self._clock = clock
        self._quiet = quiet
        self._settling = Settling(quiet)
        self._uploads = 0  # in this generation
        self._generation = 0
        self._index = 0
        self._count = 1
        self._held: set[str] = set()
        self._found: dict[str, Stamp] = {}  # files at the generation's beginning
        self._receipt: Receipt | None = None
        self._written = 0  # receipts in this generation
        self._committer: Committer | None = None
        self._read: dict[int, tuple[int, Receipt]] = {}  # by VM: the newest, and its number

    # --- before a generation ----------------------------------------------------------

    def close(self) -> Version | None:
        """Commits what the VMs of a generation that has ended held then, if all have said it.

        Returns the version that this has committed. Raises OSError.
        """
        generation = self._newest_generation()
        return self._close(generation) if generation else None

    def newest(self) -> Version:
        """The newest version there is. Raises OSError."""
        version = self._newest_written()
        with suppress(OSError, ValueError):
            self._sweep(self._newest_generation(), version)
        return version

    def version(self, name: str) -> Version:
        """The version of this name; the empty one for "". Raises OSError and ValueError."""
        return _read_version(self._run_dir, name) if name else Version()

    def begin(self, generation: int, index: int, count: int, version: Version) -> None:
        """Brings the folder to a version, for a generation in which this is VM ``index`` of
        ``count``. Raises OSError."""
        self._folder.restore(version, self._fetch)
        self._uploads = 0
        self._generation, self._index, self._count = generation, index, count
        self._settling = Settling(self._quiet)
        self._found = self._folder.stamps()
        self._settling.adopt(self._found, self._clock())
        self._held = set(version.entries)
        self._receipt, self._written, self._read = None, 0, {}
        self._committer = None if index else Committer(version, generation)

    @property
    def restless(self) -> set[str]:
        """Files that are written too often to be saved; see trainer.outputs.files.Settling."""
        return self._settling.restless

    # --- in a generation --------------------------------------------------------------

    def look(self, *, final: bool = False, whole: bool = False) -> Version | None:
        """Copies what is finished, and says so. Returns a version that this has committed.

        Args:
            final: the script's processes here have ended.
            whole: they have ended by themselves, and well: all that they wrote is finished, if
                this is so on all VMs.
        """
        asked = self._asked()  # first: what is asked for is what there is from now on
        stamps = self._folder.stamps()
        self.nameless = {entry_of(path) for path in stamps if not is_plain(path)}
        stamps = self._nameable(stamps)
        there = by_entry(stamps)
        settled = self._settling.observe(stamps, self._clock(), self._opened)
        entries: Entries = {}
        for name, paths in there.items():
            if name in settled or whole:
                files = {path: self._folder.read(path, self._upload) for path in paths}
                if None not in files.values():
                    entries[name] = {path: file for path, file in files.items() if file}
        self._held |= there.keys()
        found = self._nameable(self._found).items()
        self._say(
            Receipt(
                self._count,
                asked,
                final,
                entries,
                tuple(sorted(there.keys() - entries.keys() - self._settling.restless)),
                tuple(sorted(self._held - there.keys() - self.nameless)),
                restored=tuple(sorted(path for path, it in found if stamps.get(path) == it)),
                removed=tuple(sorted(path for path, _ in found if path not in stamps)),
                whole=whole,
                hasty=tuple(sorted(entries.keys() - settled)),
            ),
            [path for path in stamps if is_log(path)],
        )
        return self._commit() if self._committer else None

    def complete(self) -> bool:
        """Whether all VMs of the generation have said what they hold at its end."""
        receipts = self._receipts(self._generation)
        return len(receipts) == self._count and all(one.final for one in receipts.values())

    def _nameable(self, stamps: dict[str, Stamp]) -> dict[str, Stamp]:
        return {path: it for path, it in stamps.items() if entry_of(path) not in self.nameless}

    def _say(self, receipt: Receipt, logs: list[str]) -> None:
        if receipt == self._receipt:
            return
        found = {path: self._folder.read(path, self._upload) for path in logs}
        kept: Files = {path: file for path, file in found.items() if file}
        number = self._written + 1
        name = f"{RECEIPTS}/{self._generation:09d}/{self._index:05d}-{number:06d}.json"
        whole = Receipt(**{**vars(receipt), "logs": kept})
        self._run_dir.write_json(name, whole.to_json())
        self._receipt, self._written = receipt, number
        if number > 1:
            with suppress(OSError):
                self._run_dir.store.delete(
                    f"{RECEIPTS}/{self._generation:09d}/{self._index:05d}-{number - 1:06d}.json"
                )

    def _commit(self) -> Version | None:
        assert self._committer is not None
        asked = self._committer.round
        version = self._committer.consider(self._receipts(self._generation))
        if self._committer.round > asked:
            folder = f"{ROUNDS}/{self._generation:09d}"
            self._run_dir.write_json(f"{folder}/{self._committer.round:06d}", {})
        if version is not None:
            self._write(version)
            self._committer.committed(version)
            with suppress(OSError, ValueError):
                self._tidy()
        return version

    # --- the store --------------------------------------------------------------------

    def _upload(self, data: bytes) -> str:
        self._uploads += 1
        name = f"{self._generation:09d}-{self._index:05d}-{self._uploads:06d}-{digest(data)}"
        self._run_dir.store.write(f"{PARTS}/{name}", data)
        return name

    def _fetch(self, name: str) -> bytes:
        return _read_part(self._run_dir, name)

    def _asked(self) -> int:
        names = self._run_dir.store.names(f"{ROUNDS}/{self._generation:09d}")
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def _receipts(self, generation: int) -> dict[int, Receipt]:
        """The newest receipt of each VM of a generation."""
        folder = f"{RECEIPTS}/{generation:09d}"
        newest: dict[int, int] = {}
        for name in self._run_dir.store.names(folder):
            vm, _, number = name.removesuffix(".json").partition("-")
            if vm.isdecimal() and number.isdecimal():
                newest[int(vm)] = max(newest.get(int(vm), 0), int(number))
        for index, latest in newest.items():
            if index not in self._read or self._read[index][0] != latest:
                with suppress(FileNotFoundError, ValueError):  # a newer one has just come
                    name = f"{folder}/{index:05d}-{latest:06d}.json"
                    receipt = Receipt.from_json(self._run_dir.read_json(name, LISTS))
                    self._read[index] = latest, receipt
        return {index: receipt for index, (_, receipt) in self._read.items()}

    def _newest_generation(self) -> int:
        names = self._run_dir.store.names(RECEIPTS)
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def _close(self, generation: int) -> Version | None:
        self._read = {}
        receipts = self._receipts(generation)
        self._read = {}
        committer = Committer(self._newest_written(), generation)
        if not all(one.final for one in receipts.values()):
            return None
        version = committer.consider(receipts)
        if version is not None:
            self._write(version)
        return version

    def _newest_written(self) -> Version:
        return newest_version(self._run_dir)

    def _write(self, version: Version) -> None:
        self._run_dir.write_json(f"{VERSIONS}/{version.name}.json", version.to_json())

    def _tidy(self) -> None:
        """Deletes what no version that is kept needs: old manifests first, and then parts."""
        # A VM takes no part's name from anywhere but its newest receipt. So what is in none of
        # those read here, and in no version that stays, is in nobody's hands.
        names = sorted(self._run_dir.store.names(VERSIONS))
        kept = [self.version(name.removesuffix(".json")) for name in names[-KEEP:]]
        dropped = [self.version(name.removesuffix(".json")) for name in names[:-KEEP]]
        for version in dropped:
            self._run_dir.store.delete(f"{VERSIONS}/{version.name}.json")
        needed = {name for one in kept for name in _parts(one)}
        for receipt in self._receipts(self._generation).values():
            held = [*receipt.entries.values(), receipt.logs]
            needed |= {name for files in held for file in files.values() for name in file.parts}
        for name in {name for one in dropped for name in _parts(one)} - needed:
            self._run_dir.store.delete(f"{PARTS}/{name}")

    def _sweep(self, generation: int, newest: Version) -> None:
        """Deletes what generations before ``generation`` have left, and no version names."""
        store = self._run_dir.store
        for folder in (ROUNDS, RECEIPTS):
            for name in store.names(folder):
                if name.isdecimal() and int(name) < generation:
                    store.delete(f"{folder}/{name}")
        names = [name.removesuffix(".json") for name in store.names(VERSIONS)]
        needed = {part for name in names for part in _parts(self.version(name))} | _parts(newest)
        for part in store.names(PARTS):
            if int(part.partition("-")[0]) < generation and part not in needed:
                store.delete(f"{PARTS}/{part}")


def newest_version(run_dir: RunDirectory) -> Version:
    """The newest version that a run has committed; the empty one without any.

    Raises OSError, and FormatError for one that a newer Swell has written.
    """
    names = [name.removesuffix(".json") for name in run_dir.store.names(VERSIONS)]
    for name in sorted(names, reverse=True):
        try:
            return _read_version(run_dir, name)
        except FormatError:
            raise
        except ValueError:
            continue  # damaged: the one before it is whole
    return Version()


def fetch(run_dir: RunDirectory, version: Version, folder: Path) -> None:
    """Writes the files of a version into a folder. Raises OSError."""
    Folder(folder).restore(version, lambda name: _read_part(run_dir, name))


def _read_version(run_dir: RunDirectory, name: str) -> Version:
    return Version.from_json(name, run_dir.read_json(f"{VERSIONS}/{name}.json", LISTS))


def _read_part(run_dir: RunDirectory, name: str) -> bytes:
    return run_dir.store.read(f"{PARTS}/{name}", PART)


def _parts(version: Version) -> set[str]:
    return {part for file in {**version.files, **version.logs}.values() for part in file.parts}
