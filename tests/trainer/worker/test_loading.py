"""Finding a user's class by the name in their job file."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.worker.loading import load_class


@pytest.fixture(autouse=True)
def imports() -> Iterator[None]:
    """Leaves Python's view of its modules as it was."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_class_of_a_module() -> None:
    assert load_class("collections:OrderedDict") is OrderedDict


def test_a_class_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text("class Mine:\n    x = 3\n")
    loaded = load_class(f"{tmp_path}/my_task.py:Mine")
    assert loaded.x == 3
    assert loaded.__module__ == "my_task"


def test_a_file_is_named_relative_to_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_task.py").write_text("class Mine: pass\n")
    monkeypatch.chdir(tmp_path)
    assert load_class("my_task.py:Mine").__name__ == "Mine"


def test_what_lies_beside_a_file_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text("WIDTH = 7\n")
    (tmp_path / "my_task.py").write_text("import my_model\nclass Mine: x = my_model.WIDTH\n")
    assert load_class(f"{tmp_path}/my_task.py:Mine").x == 7


def test_a_path_may_have_colons(tmp_path: Path) -> None:
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "my_task.py").write_text("class Mine: pass\n")
    assert load_class(f"{folder}/my_task.py:Mine").__name__ == "Mine"


@pytest.mark.parametrize("name", ["", ":", "module", "module:", ":Class", "my_task.py"])
def test_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not module:Class or path/to/file\.py:Class"):
        load_class(name)


@pytest.mark.parametrize(
    "name", ["no_such_module:A", "collections.no_such:A", "/no/such/file.py:A"]
)
def test_what_cannot_be_found_is_an_import_error(name: str) -> None:
    with pytest.raises(ImportError, match=r"no.such"):
        load_class(name)


def test_a_class_that_is_not_there_is_named() -> None:
    with pytest.raises(AttributeError, match="collections has no class 'Nothing'"):
        load_class("collections:Nothing")


def test_what_a_users_file_raises_is_raised(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_class(f"{tmp_path}/my_task.py:Mine")


def test_a_file_does_not_take_the_place_of_a_module_in_use(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("class Mine: pass\n")
    assert load_class(f"{tmp_path}/json.py:Mine").__name__ == "Mine"
    assert sys.modules["json"] is json
