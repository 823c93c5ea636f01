"""A VM installs what it wants: for itself, and never into its user's environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.emulator.vms.interpreter import Interpreter
from tests.launcher.emulator.running import Emulator, pool
from tests.launcher.emulator.vms.test_packages import wheel

ROOT = Path(__file__).parents[4]
MAKE = """
import json, sys
from pathlib import Path
from launcher.emulator.vms.interpreter import Interpreter
print(json.dumps(dict(Interpreter(Path(sys.argv[1])).variables("/usr/bin:/bin"))))
"""
TOOL = "#!{python}\nimport sys\nprint(sys.prefix)\n"
OFFLINE = "--no-index --no-build-isolation --quiet --disable-pip-version-check"

Shell = Callable[[str], str]


def run(command: list[str], **environment: str) -> str:
    clean = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture
def below(tmp_path: Path) -> Path:
    """A user's environment, which is not that of the tests: one package, and one script."""
    folder = tmp_path / "user's venv"
    venv.EnvBuilder(symlinks=True).create(folder)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    with Path(packages, "tests.pth").open("w") as file:  # has pip, and what the emulator needs
        file.write(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    tool = folder / "bin/tool"
    tool.write_text(TOOL.format(python=folder / "bin/python"))
    tool.chmod(0o755)
    package = wheel(tmp_path, "mine", {"mine.py": "VALUE = 'the user'\n"})
    run([str(folder / "bin/python"), "-m", "pip", "install", *OFFLINE.split(), str(package)])
    return folder


def everything(folder: Path) -> dict[str, float]:
    """All files of an environment but for what Python caches."""
    return {
        str(path): path.lstat().st_mtime
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts and not path.is_dir()
    }


def test_what_is_installed_removed_or_replaced_is_the_vms_own(below: Path, tmp_path: Path) -> None:
    before = everything(below)
    made = run([str(below / "bin/python"), "-c", MAKE, str(tmp_path / "vm")], PYTHONPATH=str(ROOT))
    variables = json.loads(made)
    vm = str(tmp_path / "vm")
    folder = tmp_path / "others"
    folder.mkdir()
    other = wheel(folder, "mine", {"mine.py": "VALUE = 'the VM'\n"})
    extra = wheel(tmp_path, "extra", {"extra.py": ""})
    users = wheel(tmp_path, "users", {"users.py": ""})

    def sh(script: str) -> str:
        return run(["sh", "-ec", script], **variables)

    show = "python -c 'import mine; print(mine.VALUE)'"
    assert sh(show) == "the user", "what the user has is there"
    assert sh("tool") == vm, "the user's scripts run in the VM's Python"
    assert vm in sh("python -m pip --version; python3 -c 'import sys; print(sys.prefix)'")
    sh(f"python -m pip install {OFFLINE} '{extra}'; python -c 'import extra'")
    sh(f"python -m pip install {OFFLINE} --user '{users}'; python -c 'import users'")
    assert str(tmp_path / "vm/user") in sh("python -c 'import users; print(users.__file__)'")
    sh("python -m pip uninstall --yes --quiet mine 2>&1")
    assert sh(show) == "the user"
    sh(f"python -m pip install {OFFLINE} --force-reinstall '{other}' 2>&1")
    assert sh(show) == "the VM"
    sh("python -m pip uninstall --yes --quiet mine extra users 2>&1")
    assert sh(show) == "the user"
    assert everything(below) == before


def test_one_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    """The emulator may have been started again beside a VM that uses it."""
    made = Interpreter(tmp_path / "python")
    before = everything(tmp_path)
    assert Interpreter(tmp_path / "python").path == made.path
    assert everything(tmp_path) == before
    (tmp_path / "python/made").unlink()  # it was killed while it made it
    (tmp_path / "python/emulator").write_text("half of something")
    Interpreter(tmp_path / "python")
    assert everything(tmp_path).keys() == before.keys()


def test_a_job_that_installs_for_itself_installs_for_each_vm(
    emulator: Emulator, tmp_path: Path
) -> None:
    """By the command that users write, in the environment that the tests themselves run in."""
    package = wheel(tmp_path, "swell_test_only", {"swell_test_only.py": "print('found')\n"})
    installs = f"pip install {OFFLINE} {package} && python -m swell_test_only"
    lacks = "python -m swell_test_only 2>/dev/null || echo lacks; pip --version"
    # Should it fail, then by what cannot be found, and not by what is left where it should not be.
    guard = "case $(command -v pip) in */installed/*) ;; *) exit 3;; esac; "
    job = emulator.create(pool(f"{guard}{installs}; exec sleep 1000"), pool(guard + lacks))
    emulator.until_output(job, "workerpool0-0", "found")
    emulator.until_output(job, "workerpool1-0", "lacks")
    found = [
        sys.executable,
        "-c",
        "import importlib.util as u; print(u.find_spec('swell_test_only'))",
    ]
    assert run(found) == "None"
    assert emulator.http.delete(job).status_code == 200
    assert not (emulator.state / "installed" / job.rpartition("/")[2]).exists()
