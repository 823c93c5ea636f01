"""The patches for Horovod: what is in containers/patches can be read, fits together, and says why.

That they fit Horovod's source is shown whenever a wheel is built from it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from build_horovod import HERE, VERSION
from patching import PatchError, apply_patches, read_patches

ROOT = HERE.parent
PATCHES = read_patches(HERE / "patches")
LENGTH = 1500  # lines, more than any of the files that are patched has
TEXTS = [(HERE / "patches" / patch.name).read_text() for patch in PATCHES]
each = pytest.mark.parametrize("text", TEXTS, ids=[patch.name[:4] for patch in PATCHES])


def told() -> dict[str, dict[int, bytes]]:
    """What the patches tell of the files that they are for: some lines, by their place from 0."""
    told: dict[str, dict[int, bytes]] = {}
    now: dict[str, list[int | bytes]] = {}  # a number is that line of the original, as it was
    for change in (change for patch in PATCHES for change in patch.changes):
        original = told.setdefault(change.file, {})
        lines = now.setdefault(change.file, list(range(LENGTH)))
        for hunk in reversed(change.hunks):
            place = slice(hunk.before.start, hunk.before.end)
            for here, expected in zip(lines[place], hunk.before.lines, strict=True):
                found = original.setdefault(here, expected) if isinstance(here, int) else here
                assert found == expected, "what one patch leaves is not what a later one expects"
            lines[place] = hunk.after.lines
    return told


TOLD = told()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree of which as much is known as the patches tell."""
    for file, lines in TOLD.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            b"".join(lines.get(number, b"// line %d\n" % number) for number in range(LENGTH))
        )
    return tmp_path


def contents(tree: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_there_are_nine_for_the_version_that_is_built() -> None:
    assert len(PATCHES) == 9
    assert {patch.source for patch in PATCHES} == {f"horovod-{VERSION}"}


def test_they_fit_one_after_the_other(tree: Path) -> None:
    before = contents(tree)
    apply_patches(PATCHES, tree)
    after = contents(tree)
    assert all(after[file] != before[file] for file in before)


def test_patched_source_is_not_patched_again(tree: Path) -> None:
    apply_patches(PATCHES, tree)
    after = contents(tree)
    with pytest.raises(PatchError, match="has these patches already"):
        apply_patches(PATCHES, tree)
    assert contents(tree) == after


@pytest.mark.parametrize("file", TOLD)
def test_one_line_that_is_not_what_they_expect_stops_all(tree: Path, file: str) -> None:
    lines = (tree / file).read_bytes().splitlines(keepends=True)
    for number in TOLD[file]:
        for instead in ([], [b"// other\n"]):
            content = b"".join([*lines[:number], *instead, *lines[number + 1 :]])
            (tree / file).write_bytes(content)
            before = contents(tree)
            with pytest.raises(
                PatchError, match=rf" does not fit {re.escape(file)}, hunk \d of \d"
            ):
                apply_patches(PATCHES, tree)
            assert contents(tree) == before


@pytest.mark.parametrize("file", TOLD)
def test_a_missing_file_stops_all(tree: Path, file: str) -> None:
    (tree / file).unlink()
    before = contents(tree)
    with pytest.raises(
        PatchError, match=rf" does not fit {re.escape(file)}, there is no such file"
    ):
        apply_patches(PATCHES, tree)
    assert contents(tree) == before


@each
def test_each_says_what_it_is_for(text: str) -> None:
    """Prose of some length, what shows the fault, and whether Horovod's developers know."""
    prose = text.partition("\n---\n")[0]
    assert len(prose.split()) > 60
    assert re.search(r"^Shown-by: \S", prose, re.MULTILINE)
    assert re.search(r"^Upstream: \S", prose, re.MULTILINE)


@each
def test_what_shows_the_fault_is_there(text: str) -> None:
    shown_by = r"^Shown-by: ((?:tests|benchmarks)/\S+?\.py)(?:::(\w+))?"
    for file, name in re.findall(shown_by, text, re.MULTILINE):
        functions = ast.walk(ast.parse((ROOT / file).read_bytes()))
        names = {node.name for node in functions if isinstance(node, ast.FunctionDef)}
        assert not name or name in names, f"{file} has no {name}"
