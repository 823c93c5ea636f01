"""The user's code on a VM: fetched, verified, unpacked, its requirements installed; or an end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.agent.code import CodeError, bring, scratch_folder
from trainer.agent.settings import Settings
from trainer.protocol.session import CodeSettings, Program
from trainer.rundir import bundle
from trainer.rundir.bundle import File
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import ENV_SCRATCH

FILES = [
    File("train.py", b"import greeting\nprint(greeting.HELLO)\n"),
    File("deep/lib.py", b"X = 1\n"),
    File("requirements.txt", b"--no-index\n./greeting-1.0-py3-none-any.whl\n"),
]


def wheel(folder: Path) -> File:
    """A requirement that needs no index."""
    path = folder / "greeting-1.0-py3-none-any.whl"
    about = "greeting-1.0.dist-info"
    tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("greeting.py", "HELLO = 'hello'\n")
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        file.writestr(f"{about}/WHEEL", tag)
        file.writestr(f"{about}/RECORD", "greeting.py,,\n")
    return File(path.name, path.read_bytes())


def test_what_somebody_else_has_put_in_place_of_the_scratch_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is no secret, and all users share the folder that it is in."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"swell-{os.getuid()}"
    assert scratch_folder({}) == folder
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="somebody else"):
        scratch_folder({})
    folder.rename(tmp_path / "own")
    (tmp_path / "own").chmod(0o700)
    folder.symlink_to(tmp_path / "own")
    with pytest.raises(PermissionError, match="somebody else"):
        scratch_folder({})
    assert scratch_folder({ENV_SCRATCH: str(folder)}) == folder, "a user may say so"


class Vm:
    """A run directory, and a VM that is to run what it brings along."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDirectory(str(folder / "run"))
        self.scratch = folder / "scratch"
        self.waits: list[float] = []

    def launch(self, files: list[File], requirements: str = "", **program: str) -> Settings:
        sha256 = bundle.digest(files)
        self.run_dir.store.write(f"code/{sha256}.tar.gz", bundle.encode(files))
        size = sum(len(file.data) for file in files)
        runs = Program(**program) if program else Program(script="train.py")  # type: ignore[arg-type]
        return Settings(runs, code=CodeSettings(sha256, size, requirements))

    def bring(self, settings: Settings) -> tuple[Program, CodeSettings]:
        env = {ENV_SCRATCH: str(self.scratch)}
        brought = bring(self.run_dir, settings, env, sleep=self.waits.append)
        assert brought.code
        return brought.program, brought.code

    def bundle(self, settings: Settings) -> str:
        """Where in the run directory the code is."""
        assert settings.code
        return f"code/{settings.code.sha256}.tar.gz"


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vm]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield Vm(tmp_path)


def test_a_run_without_code_needs_nothing(vm: Vm) -> None:
    settings = Settings(Program(module="m"))
    assert bring(vm.run_dir, settings, {ENV_SCRATCH: str(vm.scratch)}) is settings
    assert not vm.scratch.exists()


def test_the_program_is_found_in_the_code(vm: Vm) -> None:
    program, code = vm.bring(vm.launch(FILES))
    assert Path(program.script).read_bytes() == FILES[0].data
    assert code.folder == str(Path(program.script).parent)
    assert code.folder in sys.path, "a module is looked for there, too"


def test_a_task_of_a_file_is_found_in_the_code(vm: Vm) -> None:
    program, code = vm.bring(vm.launch(FILES, task="deep/lib.py:Task"))
    assert program.task == f"{code.folder}/deep/lib.py:Task"
    program, _ = vm.bring(vm.launch(FILES, task="deep.lib:Task"))
    assert program.task == "deep.lib:Task"


def test_code_that_is_there_is_not_fetched_again(vm: Vm) -> None:
    settings = vm.launch(FILES)
    first = vm.bring(settings)
    vm.run_dir.store.delete("code")
    assert vm.bring(settings) == first


def test_what_it_requires_is_installed_once_beside_the_image(
    vm: Vm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = vm.launch([*FILES, wheel(tmp_path)], "requirements.txt")
    _, code = vm.bring(settings)
    look = (
        "import sys; from trainer.worker.script import enter_code; enter_code(*sys.argv[1:]);"
        "import greeting, os\n"
        "import pydantic, runpy; runpy.run_path('train.py'); print(os.environ['PYTHONPATH'])"
    )
    places = [code.folder, code.installed]
    ran = subprocess.run([sys.executable, "-c", look, *places], capture_output=True, text=True)
    assert ran.stdout.splitlines()[0] == "hello", ran.stderr
    assert ran.stdout.splitlines()[1].split(":")[:2] == places
    assert capfd.readouterr().out.count("installing") == 1
    vm.bring(settings)
    assert "installing" not in capfd.readouterr().out


def test_what_cannot_be_installed_ends_the_run_with_the_reason(vm: Vm) -> None:
    files = [*FILES[:2], File("requirements.txt", b"--no-index\nno-such-thing==7\n")]
    with pytest.raises(CodeError, match=r"requirements.txt cannot be installed: ERROR: .*"):
        vm.bring(vm.launch(files, "requirements.txt"))
    outcome = vm.run_dir.outcome()
    assert outcome and outcome["state"] == "failed"
    assert "no-such-thing" in outcome["reason"].splitlines()[0]
    assert outcome["reason"].splitlines()[0].endswith(" [SW4014]")
    assert vm.waits == [5.0, 10.0], "a few tries, and no more"


def test_code_that_was_tampered_with_is_not_run(vm: Vm) -> None:
    settings = vm.launch(FILES)
    evil = bundle.encode([File("train.py", b"evil"), *FILES[1:]])
    vm.run_dir.store.write(vm.bundle(settings), evil)
    with pytest.raises(CodeError, match="has the hash"):
        vm.bring(settings)
    assert list(vm.scratch.rglob("*.py")) == []
    assert vm.run_dir.outcome()


def test_a_vm_that_comes_to_a_run_under_way_goes_on_trying(vm: Vm) -> None:
    settings = vm.launch(FILES)
    vm.run_dir.create_json("leader/000001.json", {})
    packed = vm.run_dir.store.read(vm.bundle(settings))
    vm.run_dir.store.delete("code")

    def sleep(seconds: float) -> None:
        vm.waits.append(seconds)
        if len(vm.waits) == 7:
            vm.run_dir.store.write(vm.bundle(settings), packed)

    brought = bring(vm.run_dir, settings, {ENV_SCRATCH: str(vm.scratch)}, sleep)
    assert brought.code and brought.code.folder
    assert vm.waits == [5, 10, 20, 40, 60, 60, 60]
    assert vm.run_dir.outcome() is None


@pytest.mark.parametrize(
    "code", [CodeSettings("../../x", 1), CodeSettings(64 * "a", 1, requirements="../x")], ids=str
)
def test_a_run_cannot_name_what_is_elsewhere(code: CodeSettings) -> None:
    with pytest.raises(ValueError, match=r"code\.(sha256|requirements) is not"):
        Settings(Program(module="m"), code=code)
