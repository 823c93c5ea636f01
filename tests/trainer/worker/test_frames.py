"""Whose frames a user sees of an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.protocol.session import Program
from trainer.worker.frames import told
from trainer.worker.loading import load_class
from trainer.worker.script import run_program


def traceback_of(call: Callable[[], Any]) -> str:
    with pytest.raises(BaseException) as caught:
        call()
    error = caught.value
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # not this file's
    while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename == __file__:
        error.__traceback__ = error.__traceback__.tb_next
    return told(error)


def script(folder: Path, text: str) -> Callable[[], None]:
    (folder / "train.py").write_text(text)
    return lambda: run_program(Program(script=str(folder / "train.py")))


def test_it_begins_with_the_program(tmp_path: Path) -> None:
    said = traceback_of(script(tmp_path, "def f():\n    return 1 / 0\nf()\n"))
    lines = said.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{tmp_path}/train.py", line 3, in <module>'
    assert "/trainer/" not in said
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_files_in_the_current_folder_are_told_by_their_paths_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = traceback_of(script(tmp_path, "1 / 0\n"))
    assert said.splitlines()[1] == '  File "train.py", line 1, in <module>'


def test_a_current_folder_that_is_gone_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    said = traceback_of(script(tmp_path, "1 / 0\n"))
    assert said.splitlines()[1] == f'  File "{tmp_path}/train.py", line 1, in <module>'


def test_those_before_it_begin_with_the_program_too(tmp_path: Path) -> None:
    text = "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError(3) from error\n"
    said = traceback_of(script(tmp_path, text))
    assert "direct cause" in said
    assert "/trainer/" not in said


def test_of_what_cannot_be_parsed_only_the_line_is_shown(tmp_path: Path) -> None:
    said = traceback_of(script(tmp_path, "x = (\n"))
    assert said.startswith(f'  File "{tmp_path}/train.py", line 1\n')
    assert said.splitlines()[-1] == "SyntaxError: '(' was never closed"


def test_an_error_of_swells_own_keeps_its_frames() -> None:
    said = traceback_of(lambda: load_class("nonsense"))
    assert "loading.py" in said


def test_so_does_one_of_a_library_that_swell_has_called() -> None:
    said = traceback_of(lambda: load_class("package_that_is_not_there:Net"))
    assert "loading.py" in said and "importlib" in said


def test_bundled_tasks_are_programs() -> None:
    from trainer.tasks.digits import Digits

    said = traceback_of(lambda: Digits(dtype="float16"))
    assert "tasks/digits.py" in said
