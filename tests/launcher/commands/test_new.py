"""``swell new task`` writes what works, and writes over nothing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from launcher import load_job, starter
from launcher.cli import app
from launcher.job.job import Job
from tests.trainer.ranks import alone

ROOT = Path(__file__).parents[3]


def new(folder: Path, name: str, *more: str) -> Result:
    return CliRunner().invoke(app, ["new", "task", name, "--into", str(folder), *more])


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def _trains(file: str, name: str, args: dict[str, Any]) -> tuple[float, float]:
    """The loss of the same samples before training and after it, of a task in a file."""
    from trainer import fit
    from trainer.worker.loading import load_class

    task = load_class(f"{file}:{name}")(**args)
    torch.manual_seed(task.seed)
    model = task.model()
    task.model = lambda: model
    batch = task.batch(task.dataset(), torch.arange(32))
    before = float(task.loss(model, batch))
    fit(task)
    return before, float(task.loss(model, batch))


@pytest.mark.parametrize("kind", starter.KINDS)
def test_a_new_task_has_its_files_and_a_job_that_is_right(kind: str, tmp_path: Path) -> None:
    answer = new(tmp_path, "my_task2", "--from", kind)
    assert answer.exit_code == 0, answer.output
    start = starter.KINDS[kind]
    files = {"my_task2.py", "test_my_task2.py", "my_task2.yaml", *start.beside}
    files |= {"sample.py"} if start.sample else set()
    assert {path.name for path in tmp_path.iterdir()} == files
    assert all(name in answer.output for name in files)
    job = load_job(tmp_path / "my_task2.yaml")
    assert (job.name, job.task) == ("my-task2", f"{tmp_path}/my_task2.py:MyTask2")
    assert job.code is not None, "the folder is sent along"


# Those that need a sample, and libraries that take seconds to import, have their own tests alone,
# which are a soak.
@pytest.mark.parametrize("kind", [name for name, it in starter.KINDS.items() if not it.sample])
def test_a_new_task_trains(kind: str, tmp_path: Path) -> None:
    assert new(tmp_path, "my_task2", "--from", kind).exit_code == 0
    small = dict(starter.KINDS[kind].small)
    before, after = alone(_trains, str(tmp_path / "my_task2.py"), "MyTask2", small)
    assert after < before


def test_the_test_that_comes_with_it_tells_what_learns(tmp_path: Path) -> None:
    assert new(tmp_path, "learns").exit_code == new(tmp_path, "stays").exit_code == 0
    path = tmp_path / "stays.py"
    path.write_text(path.read_text().replace("lr=0.01", "lr=0.0"))
    told = _pytest(tmp_path, "-k", "it_learns").stdout
    assert "1 failed, 1 passed" in told
    assert "FAILED test_stays.py::test_it_learns" in told


@pytest.mark.soak
@pytest.mark.parametrize("kind", starter.KINDS)
def test_all_tests_that_come_with_it_pass(kind: str, tmp_path: Path) -> None:
    assert new(tmp_path, "mine", "--from", kind).exit_code == 0
    done = _pytest(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def _pytest(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *more]
    return subprocess.run(
        [*line, "--rootdir", str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "name", ["My", "a-b", "2a", "a b", "", "class", "json", "torch", "ä", "../a"]
)
def test_names_that_cannot_be_modules_are_refused(name: str, tmp_path: Path) -> None:
    answer = new(tmp_path / "new", name)
    assert answer.exit_code == 2
    assert answer.output == (
        f"swell: {name!r} cannot be a module of Python's, or is one already; write lower-case "
        "letters, digits and _, a letter first, as my_task [SW6213]\n"
    )
    assert not (tmp_path / "new").exists()


def test_what_it_can_start_from_is_listed(tmp_path: Path) -> None:
    answer = new(tmp_path / "new", "mine", "--from", "gpt")
    assert answer.exit_code == 2
    listed = ", ".join(starter.KINDS)
    assert answer.output == f"swell: --from gpt: write one of {listed} [SW6214]\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py", "mine.yaml", "transformer.py"])
def test_nothing_is_written_over(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("precious")
    answer = new(tmp_path, "mine", "--from", "lm")
    assert answer.exit_code == 2
    assert answer.output == (
        f"swell: {tmp_path / there}: is there already; choose another name, or --into [SW6215]\n"
    )
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "precious")]


def test_a_disk_that_is_full_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.suffix == ".yaml" and self.parent == tmp_path:
            raise OSError(28, "No space left on device")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    answer = new(tmp_path, "mine")
    assert answer.exit_code == 1 and "No space left on device" in answer.output
    assert list(tmp_path.iterdir()) == []


def test_without_into_it_makes_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["new", "task", "mine"])
    assert answer.exit_code == 0
    assert sorted(path.name for path in Path("mine").iterdir()) == [
        "mine.py",
        "mine.yaml",
        "test_mine.py",
    ]


@pytest.mark.parametrize("module", ["text", "tensor", "task", "kept", "schedule", "digits", "any"])
def test_its_class_has_the_name_of_nothing_else(module: str) -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "trainer/tasks").glob("*.py")}
    name = f"My{module.capitalize()}"
    for kind in starter.KINDS:
        files = starter.files(starter.KINDS[kind], module, sources)
        written = re.findall(r"^class (\w+)\(Task\):", files[f"{module}.py"], re.MULTILINE)
        other = module.capitalize()
        taken = re.search(rf"\b{other}\b", sources[f"{kind}.py"] + "Task Kept")
        assert written == [name if taken else other]


@settings(max_examples=10)
@given(st.from_regex(starter.MODULE, fullmatch=True).filter(starter.valid))
def test_whatever_it_is_called_it_is_python_and_a_job(module: str) -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "trainer/tasks").glob("*.py")}
    for kind in starter.KINDS.values():
        files = starter.files(kind, module, sources)
        assert len(files) == 3 + len(kind.beside) + bool(kind.sample)
        for name, text in files.items():
            if name.endswith(".py"):
                ast.parse(text)
        Job.model_validate(yaml.safe_load(files[f"{module}.yaml"]))


def test_a_new_script_trains_alone_and_its_job_file_is_right(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["new", "script", "train", "--into", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "train.yaml"}
    job = load_job(tmp_path / "train.yaml")
    assert (job.name, job.script, job.code is not None) == ("train", f"{tmp_path}/train.py", True)
    assert "own_loop" not in (tmp_path / "train.py").read_text()
    told = alone(_told, str(tmp_path / "train.py"), ["--epochs", "3"])
    assert told[0].startswith("epoch 0: loss ") and len(told) == 3
    assert float(told[2].split()[-1]) < float(told[0].split()[-1])


def _told(script: str, args: list[str]) -> list[str]:
    """What a script prints."""
    import contextlib
    import io
    import runpy
    import sys

    said = io.StringIO()
    sys.argv = [script, *args]
    with contextlib.redirect_stdout(said):
        runpy.run_path(script, run_name="__main__")
    return said.getvalue().splitlines()


@pytest.mark.parametrize(
    ("source", "program", "field"),
    [
        ("from trainer import elastic", "train.py", "script"),
        ("import horovod.torch as hvd", "train.py", "script"),
        ("import torch.distributed as dist", "train.py", "torchrun"),
        ("class Mine: pass", "train.py:Mine", "task"),
    ],
)
def test_a_new_job_runs_a_program_as_what_it_is(
    source: str, program: str, field: str, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(source)
    answer = CliRunner().invoke(app, ["new", "job", str(tmp_path / program)])
    assert answer.exit_code == 0, answer.output
    assert f"runs it as {field}: {program}" in answer.output
    job = load_job(tmp_path / "train.yaml")
    given = job.torchrun.script if job.torchrun else getattr(job, field)
    assert given == f"{tmp_path}/{program}"
    assert len(job.replicas()) == 3


def test_a_new_job_says_what_it_cannot_run(tmp_path: Path) -> None:
    runner = CliRunner()
    (tmp_path / "bad.py").write_text("x = (")
    (tmp_path / "good.py").write_text("x = 1")
    (tmp_path / "good.yaml").write_text("precious")
    for program, said in (
        ("none.py", "none.py: write the path of a Python file that there is [SW6281]"),
        ("good.yaml", "good.yaml: write the path of a Python file that there is [SW6281]"),
        ("bad.py", "bad.py: is no Python that can be read: '(' was never closed"),
        ("good.py", "good.yaml: is there already; edit or rename it [SW6215]"),
    ):
        answer = runner.invoke(app, ["new", "job", str(tmp_path / program)])
        assert answer.exit_code == 2
        assert said in answer.output
    assert (tmp_path / "good.yaml").read_text() == "precious"
    assert not (tmp_path / "bad.yaml").exists()
