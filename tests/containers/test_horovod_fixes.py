from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from horovod_fixes import FIXES, Fix, apply_fixes


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree that has every place to change once, and something around it."""
    places = defaultdict(list)
    for fix in FIXES:
        places[fix.file].append(fix.old)
    for file, olds in places.items():
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("// before\n" + "\n// between\n".join(olds) + "\n// after\n")
    return tmp_path


def contents(tree: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in tree.rglob("*") if path.is_file()}


def test_each_fix_takes_the_place_of_the_old_text(tree: Path) -> None:
    assert apply_fixes(tree) == [
        "cxx17",
        "cuda",
        "interface",
        "init",
        "waiters",
        "columns",
        "meshes",
        "again",
        "idle",
    ]
    for fix in FIXES:
        text = (tree / fix.file).read_text()
        assert fix.new in text
        assert text.startswith("// before\n") and text.endswith("\n// after\n")


def test_fixed_source_is_not_fixed_again(tree: Path) -> None:
    apply_fixes(tree)
    fixed = contents(tree)
    with pytest.raises(ValueError):
        apply_fixes(tree)
    assert contents(tree) == fixed


@pytest.mark.parametrize("fix", FIXES, ids=lambda fix: f"{fix.name}:{Path(fix.file).name}")
@pytest.mark.parametrize("copies", [0, 2])
def test_nothing_is_written_unless_every_place_is_there_once(
    tree: Path, fix: Fix, copies: int
) -> None:
    path = tree / fix.file
    path.write_text(path.read_text().replace(fix.old, fix.old * copies))
    before = contents(tree)
    with pytest.raises(ValueError, match=f"fix '{fix.name}' matches {copies} places"):
        apply_fixes(tree)
    assert contents(tree) == before


def test_a_missing_file_is_a_place_that_is_not_there(tree: Path) -> None:
    (tree / FIXES[-1].file).unlink()
    before = contents(tree)
    with pytest.raises(ValueError, match="matches 0 places"):
        apply_fixes(tree)
    assert contents(tree) == before
