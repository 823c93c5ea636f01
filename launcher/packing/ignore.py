"""What ignore files and the job say of a path: ``Rule``, read as git reads ``.gitignore``.

A file is bytes, with lines that end in a newline alone or in a carriage return before it; a byte
order mark at its beginning is none of its first line. Spaces at a line's end count if they are
escaped. What git does not understand matches nothing. (gitignore(5); git's dir.c,
``add_patterns_from_buffer`` and ``trim_trailing_spaces``.)
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.rundir.usererror import UserError

IGNORE_FILES = (".gitignore", ".swellignore")  # the last has the last word
NEVER = (
    ".git/", ".hg/", ".svn/", "__pycache__/", "*.py[cod]", ".venv/", ".mypy_cache/",
    ".pytest_cache/", ".ruff_cache/", ".ipynb_checkpoints/", "*.egg-info/", ".DS_Store",
    ".gitignore", ".swellignore",
)  # fmt: skip
UNREADABLE = "SW2111"  # the message about a file that cannot be read
NEVER_SENT = "never sent"  # where the rules stand that Swell itself has
EXCLUDE = "code.exclude"
DIR_MARK = "ps_d"  # in pathspec's patterns: the slash after a folder


class PackingError(UserError, ValueError):
    """A folder that cannot be sent as it is."""


@dataclass(frozen=True)
class Rule:
    """One line that says which paths are ignored, or are not.

    Attributes:
        source: where it stands, as ``.gitignore:3``.
        text: the line.
        pattern: what it matches, from the folder of its file.
        ignores: whether what it matches is ignored; else it is brought back.
    """

    source: str
    text: str
    pattern: re.Pattern[str]
    ignores: bool

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"

    def meets(self, path: str) -> bool:
        """Whether it is about ``path`` itself; a folder's ends with a slash.

        pathspec's own check takes a path for met, too, when a folder above it is. Here folders are
        asked about before what is in them; once more would undo what later rules bring back.
        """
        if DIR_MARK not in self.pattern.groupindex:
            return bool(self.pattern.search(path.rstrip("/")))
        ends = (match.span(DIR_MARK)[1] for match in self.pattern.finditer(path))
        return any(end in (-1, len(path)) for end in ends)


@dataclass(frozen=True)
class Rules:
    """The rules of one file, in its order: of those that are about a path the last one counts.

    Attributes:
        rules: these.
        folder: where the file is, from the root of the code; "" for the root itself.
        below: where the root of the code is from there, for a file above it.
    """

    rules: Sequence[Rule]
    folder: str = ""
    below: str = ""

    def about(self, path: str) -> Rule | None:
        """Returns the rule that counts for ``path``, which is from the root of the code."""
        inside = f"{self.below}/{path}" if self.below else path.removeprefix(f"{self.folder}/")
        return next((rule for rule in reversed(self.rules) if rule.meets(inside)), None)


class Ignored:
    """What is left behind of a folder.

    Args:
        root: the folder.
        exclude: the job's own patterns.

    Raises PackingError when a pattern of the job's is none, or an ignore file cannot be read.
    """

    def __init__(self, root: Path, exclude: Sequence[str] = ()) -> None:
        self._root = root
        self._never = Rules([rule for line in NEVER for rule in _rule(line, NEVER_SENT)])
        self._job = Rules([_excluding(pattern) for pattern in exclude])
        self.above = above(root)

    def rule(self, name: str, is_folder: bool, files: Sequence[Rules]) -> Rule | None:
        """Returns the rule by which a path is ignored, while the folders above it are not.

        Args:
            name: the path, from the root.
            is_folder: whether it is one.
            files: the rules of the ignore files above it, the outermost first.
        """
        path = f"{name}/" if is_folder else name
        if never := self._never.about(path):
            return never
        said = [rules.about(path) for rules in (*files, self._job)]
        last = next((rule for rule in reversed(said) if rule), None)
        return last if last and last.ignores else None

    def why(self, name: str) -> tuple[str, Rule] | None:
        """Returns what of a file's path is ignored, the file or a folder above it, and the rule.

        None for a file that is sent. Raises PackingError.
        """
        files = list(self.above)
        parts = name.split("/")
        for depth in range(len(parts)):
            folder, path = "/".join(parts[:depth]), "/".join(parts[: depth + 1])
            files += rules_in(self._root / folder, folder)
            if rule := self.rule(path, depth < len(parts) - 1, files):
                return path, rule
        return None


def rules_in(folder: Path, name: str) -> Iterator[Rules]:
    """Yields the rules of the ignore files in ``folder``, which is ``name`` from the root."""
    for file in IGNORE_FILES:
        if lines := _lines(folder / file):
            yield Rules(_rules(lines, f"{name}/{file}" if name else file), folder=name)


def above(root: Path) -> Sequence[Rules]:
    """Returns what the repository that ``root`` is in ignores, the outermost first."""
    found: list[Rules] = []
    folder, up = root, ""
    while not (folder / ".git").exists():
        if folder.parent == folder:
            return []  # in no repository
        folder, up = folder.parent, f"../{up}"
        if lines := _lines(folder / IGNORE_FILES[0]):
            below = root.relative_to(folder).as_posix()
            found.append(Rules(_rules(lines, f"{up}{IGNORE_FILES[0]}"), below=below))
    return found[::-1]


def _rules(lines: Sequence[str], source: str) -> list[Rule]:
    found: list[Rule] = []
    for number, line in enumerate(lines, start=1):
        try:
            found += _rule(line, f"{source}:{number}")
        except ValueError:
            continue  # for git, too, it matches nothing
    return found


def _excluding(pattern: str) -> Rule:
    """Returns the rule of a pattern of the job's: there a line that says nothing is a mistake."""
    try:
        return next(iter(_rule(pattern, EXCLUDE)))
    except (ValueError, StopIteration):
        raise PackingError(
            "SW2107",
            f"{EXCLUDE}: {pattern[:60]!r} matches nothing; write a line as in .gitignore",
        ) from None


def _rule(line: str, source: str) -> Iterator[Rule]:
    """Yields the rule of a line, if it is one. Raises ValueError for a line that is none."""
    from pathspec import GitIgnoreSpec

    text = _trimmed(line)
    end = re.search(r"[^\S ]+\Z", text)  # pathspec would trim any white space
    if end:
        text = text[: end.start()] + "".join(f"[{blank}]" for blank in end[0])
    for pattern in GitIgnoreSpec.from_lines([text]).patterns:
        if pattern.regex is not None and pattern.include is not None:
            yield Rule(source, line, pattern.regex, pattern.include)


def _trimmed(line: str) -> str:
    """Returns a line without the spaces at its end, except from an escaped one on."""
    kept = re.match(r"(?:\\.|[^\\])*?(?= *\Z)", line, re.DOTALL)
    return kept[0] if kept else line


def _lines(file: Path) -> list[str]:
    try:
        if file.is_symlink():  # git reads none that is a link
            return []
        data = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return []
    except OSError as error:
        raise PackingError(UNREADABLE, f"code: {file} cannot be read: {error.strerror}") from None
    # As names of files are decoded, so that any bytes compare.
    return [os.fsdecode(line.removesuffix(b"\r")) for line in data.split(b"\n")]
