"""The first program of a VM with a Python package: installs it, and runs it.

    python -I install.py FOLDER MODULE PACKAGE_URI ... -- [ARGUMENT ...]

The Python is the VM's own (see ``interpreter``), FOLDER is where packages are copied to. They come
from ``gs://`` or a file; what they depend on must be among them or in the emulator's environment
already, for no index is asked. Runs inside the VM, so that all that is said goes to its log and all
that is started ends with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.rundir.usererror import UserError, shown

if TYPE_CHECKING:
    from launcher.emulator.resources.customjobs import Package

END_OF_URIS = "--"


class InstallError(UserError):
    """A package that cannot be had or installed; one line."""


def install_command(python: Path, folder: Path, package: Package, args: Sequence[str]) -> list[str]:
    """Returns the command that installs ``package`` for ``python``, and runs it with ``args``."""
    head = [str(python), "-I", __file__, str(folder), package.module]
    return [*head, *package.uris, END_OF_URIS, *args]


def main(folder: Path, module: str, uris: Sequence[str], args: Sequence[str]) -> int:
    """Becomes the module's process. Returns 1 when a package cannot be installed."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        _install([_fetched(uri, folder / str(n)) for n, uri in enumerate(uris)])
    except (InstallError, OSError) as error:
        print(f"cannot install the job's packages: {shown(error)}", file=sys.stderr)
        return 1
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *args])


def _fetched(uri: str, folder: Path) -> Path:
    """Copies a package into ``folder`` under its own name, which says its version and format."""
    import fsspec

    path = folder / uri.rpartition("/")[2]
    folder.mkdir(parents=True)
    try:
        with fsspec.open(uri, "rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
    except Exception as error:  # each file system has errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InstallError("SW2209", f"{uri} cannot be read: {reason}") from None
    return path


def _install(files: Sequence[Path]) -> None:
    options = ("--no-index", "--no-build-isolation", "--no-input", "--disable-pip-version-check")
    done = subprocess.run(
        [sys.executable, "-I", "-m", "pip", "install", "--quiet", *options, *files],
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        names = ", ".join(file.name for file in files)
        raise InstallError(
            "SW2210", f"pip ended with status {done.returncode} on {names}; it says why above"
        )


if __name__ == "__main__":
    end = sys.argv.index(END_OF_URIS)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:end], sys.argv[end + 1 :]))
