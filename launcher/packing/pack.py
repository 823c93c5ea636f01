"""Which files of the user's folder a run brings along: ``pack``.

Left behind is what ``.gitignore`` names (in the folder, in those inside it, and in those above it
up to the repository's), what ``.swellignore`` names, which has the same syntax and the last word
in its folder, what the job file excludes, and what is never code (ignore.py). Git's own global and
per-clone excludes are not read: they differ from machine to machine.

Links inside the folder are followed, and what they lead to is packed; a link that leads out is
refused. So is what looks like a secret (secretfiles.py), and more than the job's limit.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from launcher.job.code import Code
from launcher.job.job import Job
from launcher.job.pool import OWN_PACKAGES
from launcher.job.problem import ABSENT, NOT_SENT, Problem
from launcher.job.sizes import Size
from launcher.packing import sdist
from launcher.packing.ignore import (
    EXCLUDE,
    NEVER_SENT,
    Ignored,
    PackingError,
    Rule,
    Rules,
    rules_in,
)
from launcher.packing.secretfiles import suspicion
from trainer.rundir import bundle
from trainer.rundir.bundle import File
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import CODE
from trainer.rundir.usererror import Message

VENV = "pyvenv.cfg"  # what tells a virtual environment, whatever it is called
LARGEST = 5  # of a folder that is too large, so many files are named
TOLD = 20  # problems of one kind
LEADS_OUT = "is a link that leads out of the folder; exclude it"
LOOP = "is a link to a folder that holds it; exclude it"


@dataclass(frozen=True)
class Packed:
    """A folder as it will be sent.

    Attributes:
        folder: which one.
        files: what is in it, by name.
        requirements: the name of the file among them that lists what they require.
    """

    folder: str
    files: tuple[File, ...]
    requirements: str | None = None

    @cached_property
    def sha256(self) -> str:
        """The hash of the content: see trainer.rundir.bundle."""
        return bundle.digest(self.files)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(len(file.data) for file in self.files)

    def settings(self) -> dict[str, Any]:
        """Returns what the trainer reads of it in run.json: see trainer.protocol.session."""
        code = {"sha256": self.sha256, "size": self.size, "requirements": self.requirements or ""}
        return {"code": code}

    def send(self, run_dir: RunDirectory, as_package: bool) -> None:
        """Puts the code into the run directory, once. Raises OSError.

        Args:
            run_dir: where to.
            as_package: also as a Python package: see launcher.packing.sdist.
        """
        # If it is there it is the same, or the agents, who verify it, will say so.
        run_dir.store.create(f"{CODE}/{self.sha256}.tar.gz", bundle.encode(self.files))
        if as_package:
            package = sdist.build(self.files, self.requirements)
            run_dir.store.create(sdist.package_name(self.sha256), package)


def pack(code: Code) -> Packed:
    """Reads the folder of ``code``.

    Raises PackingError with every problem, and OSError when something cannot be read.
    """
    root = Path(code.folder)
    if not root.is_dir():
        raise PackingError(ABSENT, f"code: there is no folder {root}")
    found = list(_Walk(root.resolve(), code).files())
    problems = [what for _, _, what in found if what]
    if problems:
        raise PackingError.of(_some(problems))
    sizes = [(path.stat().st_size, name) for name, path, _ in found]
    _check_size(sizes, code.max_size)
    files, secret = [], []
    for name, path, _ in found:
        data = path.read_bytes()
        why = None if name in code.allow else suspicion(name, path.name, data)
        if why:
            secret.append(_secret(name, why))
        files.append(File(name, data, bool(path.stat().st_mode & stat.S_IXUSR)))
    if secret:
        raise PackingError.of(_some(secret))
    _check_size([(len(file.data), file.name) for file in files], code.max_size)  # as they were read
    missing = [name for name in code.allow if name not in {file.name for file in files}]
    if missing:
        raise PackingError("SW2108", f"code.allow: {missing[0]} is not among the code; remove it")
    if not files:
        raise PackingError(
            "SW2101", f"code: there is nothing to send in {root}; everything is ignored"
        )
    in_order = tuple(sorted(files, key=lambda file: file.name))
    return Packed(code.folder, in_order, code.requirements)


def left_behind(job: Job) -> Iterator[Problem]:
    """Yields each field that names a file of the code folder's which is not sent.

    Raises PackingError when what is ignored cannot be told.
    """
    if job.code is None or not Path(job.code.folder).is_dir():
        return
    named: list[tuple[tuple[str, ...], str | None]]
    named = [((field,), job.code.inside(file)) for field, file in job.files()]
    named.append((("code", "requirements"), job.code.requirements))
    root = Path(job.code.folder).resolve()
    ignored = Ignored(root, job.code.exclude)
    for at, name in named:
        if name is None:
            continue
        inside = [folder for folder in Path(name).parents if (root / folder / VENV).exists()]
        if inside:
            what = f"{name} is in a virtual environment, {inside[0]}, which is not sent; move it"
            yield at, NOT_SENT, what
        elif found := ignored.why(name):
            path, rule = found
            what = name if path == name else f"{name} is in {path}, which"
            yield at, NOT_SENT, f"{what} is ignored ({rule}); {_let_be_sent(name, rule)}"


def python_sources(job: Job) -> Iterator[tuple[str, str, Path]]:
    """Yields the field, the name and the path of each Python file that a job brings along.

    Raises OSError, and PackingError when what is ignored cannot be told.
    """
    for field, file in job.files():
        if job.code is None or job.code.inside(file) is None:
            yield field, Path(file).name, Path(file)
    if job.code is not None and Path(job.code.folder).is_dir():
        for name, path, problem in _Walk(Path(job.code.folder).resolve(), job.code).files():
            if problem is None and name.endswith(".py"):
                yield "code", name, path


def _let_be_sent(name: str, rule: Rule) -> str:
    """Returns how a file that ``rule`` ignores, itself or a folder above it, is sent after all."""
    if rule.source == NEVER_SENT:
        return "that is never sent; give it another name"
    if rule.source == EXCLUDE:
        return "exclude less"
    folder, slash, _ = rule.source.rpartition("/")
    folder = "" if folder.startswith("..") else folder + slash
    line = name.removeprefix(folder)
    return f"let it be sent with !{'/' if '/' in line else ''}{line} in {folder}.swellignore"


def summary(packed: Packed) -> str:
    """Returns what is sent, in one line."""
    many = f"{len(packed.files):,} file" + ("s" if len(packed.files) > 1 else "")
    return f"code: {many}, {in_bytes(packed.size)}, sha256 {packed.sha256[:16]}, {packed.folder}"


def in_bytes(size: int) -> str:
    """Returns a number of bytes as people read it."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


class _Walk:
    """Goes through a folder as git would, in an order that does not matter."""

    def __init__(self, root: Path, code: Code) -> None:
        self._root = root
        self._ignored = Ignored(root, code.exclude)
        self._count = 0

    def files(self) -> Iterator[tuple[str, Path, Message | None]]:
        """Yields name, path and problem, if there is one, of what is not ignored."""
        yield from self._folder(self._root, "", self._ignored.above, (self._root,))

    def _folder(
        self, folder: Path, name: str, above: Sequence[Rules], chain: tuple[Path, ...]
    ) -> Iterator[tuple[str, Path, Message | None]]:
        files = [*above, *rules_in(folder, name)]
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            inner = f"{name}/{entry.name}" if name else entry.name
            if self._ignored.rule(inner, entry.is_dir(), files):
                continue
            if not entry.name.isprintable() or not bundle.is_plain(inner):
                what = Message("SW2105", f"code: {inner!r} is no name to send; rename it")
                yield inner, Path(entry.path), what
                continue
            yield from self._entry(entry, inner, files, chain)

    def _entry(
        self,
        entry: os.DirEntry[str],
        name: str,
        files: Sequence[Rules],
        chain: tuple[Path, ...],
    ) -> Iterator[tuple[str, Path, Message | None]]:
        path = Path(entry.path)
        self._count += 1
        if self._count > bundle.MAX_FILES:
            raise PackingError(
                "SW2110",
                f"code: {self._root} has more than {bundle.MAX_FILES:,} files; "
                "leave some out with .swellignore",
            )
        if entry.is_symlink():
            # All of the path: a folder that is a link may hold the entry.
            path = path.resolve()
            if not path.exists():
                yield name, path, _unsendable(name, "is a link to nothing; remove or exclude it")
                return
            if not path.is_relative_to(self._root):
                yield (
                    name,
                    path,
                    _unsendable(name, LEADS_OUT),
                )
                return
        if path.is_dir():
            if path.resolve() in chain:
                yield (
                    name,
                    path,
                    _unsendable(name, LOOP),
                )
            elif "/" not in name and entry.name in OWN_PACKAGES:
                yield name, path, _own(name)
            elif not (path / VENV).exists():
                yield from self._folder(path, name, files, (*chain, path.resolve()))
        elif not path.is_file():
            yield name, path, _unsendable(name, "is neither file nor folder; exclude it")
        elif name.removesuffix(".py") in OWN_PACKAGES and name.endswith(".py"):
            yield name, path, _own(name)
        else:
            yield name, path, None


def _check_size(sizes: list[tuple[int, str]], limit: Size) -> None:
    total = sum(size for size, _ in sizes)
    if total <= limit.bytes:
        return
    largest = sorted(sizes, reverse=True)[:LARGEST]
    named = ", ".join(f"{name} ({in_bytes(size)})" for size, name in largest)
    raise PackingError(
        "SW2102",
        f"code: has {in_bytes(total)}, more than {limit}; the largest are {named}; "
        "leave them out with .swellignore, or write code.max_size",
    )


def _unsendable(name: str, what: str) -> Message:
    return Message("SW2104", f"code: {name} {what}")


def _secret(name: str, why: str) -> Message:
    return Message(
        "SW2103",
        f"code: {name} {why}, and is not sent; leave it out (a line /{name} in .swellignore), "
        f"or, if it is no secret, write code.allow: [{name}]",
    )


def _own(name: str) -> Message:
    return Message(
        "SW2106",
        f"code: {name} has the name of a package of Swell's own, which every worker imports: "
        "one would hide the other; rename it, or exclude it",
    )


def _some(problems: list[Message]) -> list[Message]:
    more = len(problems) - TOLD
    if more <= 0:
        return problems
    return [*problems[:TOLD], Message("SW2112", f"code: and {more} more of these")]
