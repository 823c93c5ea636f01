"""Applies patches to a source tree: exactly, or not at all.

A patch is what ``git format-patch`` writes: prose and a unified diff. When lines are not where a
hunk says, ``git apply`` and ``patch`` look for them elsewhere, and ``patch`` makes do with most of
them, so that a patch for one version may land in the wrong place of another. Here every line must
be in its place. Nor does this need either tool, which the image's build stage does not have.

To change a patch, let git write the series anew, in the unpacked source that it is for::

    git init && git add --force . && git commit -m source
    git am PATCHES/*.patch                     # then: git rebase -i, git commit --amend, ...
    rm PATCHES/*.patch
    git format-patch -o PATCHES --zero-commit --no-signature \\
        --subject-prefix="PATCH NAME-VERSION" :/^source
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path


class PatchError(ValueError):
    """Why a patch cannot be read or does not fit, in words for the person who changed it."""


@dataclass(frozen=True)
class Block:
    """Consecutive lines of a file.

    Attributes:
        start: how many lines of the file come before them.
        lines: at least one, each with its line end if it has one.
    """

    start: int
    lines: tuple[bytes, ...]

    @property
    def end(self) -> int:
        """How many lines of the file there are up to the end of these."""
        return self.start + len(self.lines)


@dataclass(frozen=True)
class Hunk:
    """The block that one block of a file becomes; unchanged lines around it are in both.

    Attributes:
        last: whether the file ends with it, as it does where fewer unchanged lines follow than
            precede.
    """

    before: Block
    after: Block
    last: bool


@dataclass(frozen=True)
class Change:
    """What a patch does to one file: its hunks, from the top of the file to its end."""

    file: str
    hunks: tuple[Hunk, ...]

    def reversed(self) -> Change:
        """The change that takes this one back."""
        hunks = (replace(hunk, before=hunk.after, after=hunk.before) for hunk in self.hunks)
        return replace(self, hunks=tuple(hunks))

    def apply(self, lines: Sequence[bytes]) -> list[bytes]:
        """The file's lines after the change. Raises PatchError with the hunk that does not fit."""
        result: list[bytes] = []
        done = 0
        for number, hunk in enumerate(self.hunks, 1):
            if misfit := _misfit(hunk, lines):
                raise PatchError(f"hunk {number} of {len(self.hunks)}: {misfit}")
            result += [*lines[done : hunk.before.start], *hunk.after.lines]
            done = hunk.before.end
        return [*result, *lines[done:]]


@dataclass(frozen=True)
class Patch:
    """A patch of a series.

    Attributes:
        name: of its file.
        source: what it is made for, such as ``horovod-0.28.1``.
        number, total: its place in the series, from 1, and the length of the series.
        changes: at least one.
    """

    name: str
    source: str
    number: int
    total: int
    changes: tuple[Change, ...]


def _misfit(hunk: Hunk, lines: Sequence[bytes]) -> str:
    """Where the lines of a file differ from what the hunk is made for; empty if nowhere."""
    expected = hunk.before.lines
    found = lines[hunk.before.start : hunk.before.end]
    for number, (one, other) in enumerate(zip_longest(expected, found), hunk.before.start + 1):
        if one != other:
            return f"line {number} is {_quoted(other)}, and should be {_quoted(one)}"
    if hunk.last and hunk.before.end != len(lines):
        return f"the file should end after line {hunk.before.end}"
    return ""


def _quoted(line: bytes | None) -> str:
    return "missing" if line is None else repr(line.decode(errors="replace"))


# --- reading ----------------------------------------------------------------------------------

_SUBJECT = re.compile(rb"^Subject: \[PATCH (\S+) (\d+)/(\d+)\] \S", re.MULTILINE)
_FILE = re.compile(rb"diff --git a/(\S+) b/\1\n(?:index .*\n)?--- a/\1\n\+\+\+ b/\1\n")
_LINE = re.compile(rb"([ +-])(.*\n)(\\ .*\n)?")  # the backslash: it has no line end
_HUNK = re.compile(
    rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@.*\n((?:[ +-].*\n(?:\\ .*\n)?)+)",
)


def parse_patch(name: str, text: bytes) -> Patch:
    """Reads a patch that changes lines in files that exist; other kinds are errors.

    Raises PatchError naming the line that is no part of such a patch.
    """
    at = text.find(b"\ndiff --git ") + 1 or len(text)
    subject = _SUBJECT.search(text, 0, at)
    if subject is None:
        raise PatchError(f"{name} has no line 'Subject: [PATCH NAME-VERSION N/TOTAL] ...'")
    files: list[tuple[str, list[Hunk]]] = []
    while at < len(text):
        if found := _FILE.match(text, at):
            files.append((found[1].decode(), []))
        elif files and (found := _HUNK.match(text, at)) and (hunk := _hunk(found, files[-1][1])):
            files[-1][1].append(hunk)
        else:
            line = text[:at].count(b"\n") + 1
            raise PatchError(f"{name}, line {line}: neither a hunk nor the head of a changed file")
        at = found.end()
    if not files or not all(hunks for _, hunks in files):
        raise PatchError(f"{name} changes nothing")
    return Patch(
        name,
        source=subject[1].decode(),
        number=int(subject[2]),
        total=int(subject[3]),
        changes=tuple(Change(file, tuple(hunks)) for file, hunks in files),
    )


def _hunk(found: re.Match[bytes], earlier: Sequence[Hunk]) -> Hunk | None:
    """The hunk of a match; None when its numbers do not add up."""
    lines = [
        (kind, line[:-1] if unended else line) for kind, line, unended in _LINE.findall(found[5])
    ]
    kinds = b"".join(kind for kind, _ in lines)
    changed = kinds.strip(b" ")
    above, below = (len(kinds) - len(kinds.lstrip(b" ")), len(kinds) - len(kinds.rstrip(b" ")))
    hunk = Hunk(
        before=Block(int(found[1]) - 1, tuple(line for kind, line in lines if kind != b"+")),
        after=Block(int(found[3]) - 1, tuple(line for kind, line in lines if kind != b"-")),
        last=below < above or not below,
    )
    ends = (earlier[-1].before.end, earlier[-1].after.end) if earlier else (0, 0)
    skipped = (hunk.before.start - ends[0], hunk.after.start - ends[1])
    counts = [int(found[group] or 1) for group in (2, 4)]
    adds_up = (
        counts == [len(hunk.before.lines), len(hunk.after.lines)]
        and 0 not in counts
        and changed
        and skipped[0] == skipped[1] >= 0
        and (above >= below or hunk.before.start == 0)
    )
    return hunk if adds_up else None


def read_patches(folder: Path) -> tuple[Patch, ...]:
    """The series of patches in a folder, in its order.

    Raises PatchError when one cannot be read, or is missing or superfluous.
    """
    patches = tuple(
        parse_patch(path.name, path.read_bytes()) for path in sorted(folder.glob("*.patch"))
    )
    if not patches:
        raise PatchError(f"there are no patches in {folder}")
    for number, patch in enumerate(patches, 1):
        if (patch.number, patch.total) != (number, len(patches)):
            raise PatchError(
                f"{patch.name} says it is {patch.number} of {patch.total}, but it is {number} of "
                f"{len(patches)} in {folder}"
            )
    return patches


# --- applying ---------------------------------------------------------------------------------


def apply_patches(patches: Sequence[Patch], tree: Path) -> None:
    """Applies a series of patches to a source tree.

    Raises PatchError, with nothing written, when a patch does not fit, or all are in already.
    """
    changes = [(patch, change) for patch in patches for change in patch.changes]
    before = {
        change.file: io.BytesIO((tree / change.file).read_bytes()).readlines()
        for _, change in changes
        if (tree / change.file).is_file()
    }
    try:
        after = _changed(before, changes)
    except PatchError:
        undone = [(patch, change.reversed()) for patch, change in reversed(changes)]
        if _fits(before, undone):
            raise PatchError(f"{tree} has these patches already") from None
        raise
    for file, lines in after.items():
        (tree / file).write_bytes(b"".join(lines))


def _changed(
    files: Mapping[str, Sequence[bytes]], changes: Iterable[tuple[Patch, Change]]
) -> dict[str, Sequence[bytes]]:
    """The lines of the files after the changes. Raises PatchError when one does not fit."""
    result = dict(files)
    for patch, change in changes:
        try:
            if change.file not in result:
                raise PatchError("there is no such file")
            result[change.file] = change.apply(result[change.file])
        except PatchError as error:
            raise PatchError(
                f"{patch.name} does not fit {change.file}, {error}. "
                f"It was made for {patch.source}: build that version, or make the patch anew."
            ) from None
    return result


def _fits(files: Mapping[str, Sequence[bytes]], changes: Iterable[tuple[Patch, Change]]) -> bool:
    try:
        _changed(files, changes)
    except PatchError:
        return False
    return True
