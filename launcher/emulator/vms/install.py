"""The first program of a VM with a Python package: installs it for this VM alone, and runs it.

    python -I install.py FOLDER MODULE PACKAGE_URI ... -- [ARGUMENT ...]

FOLDER becomes a virtual environment on top of the emulator's own: what is installed there
is seen, and not changed. Packages come from ``gs://`` or a file; what they depend on must be
among them or in the emulator's environment already, for no index is asked. Runs inside the
VM, so that all that is said goes to its log and all that is started ends with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.rundir.usererror import UserError, shown

if TYPE_CHECKING:
    from launcher.emulator.resources.customjobs import Package

END_OF_URIS = "--"


class InstallError(UserError):
    """A package that cannot be had or installed; one line."""


def install_command(folder: Path, package: Package, args: Sequence[str]) -> list[str]:
    """Returns the command that runs ``package`` with ``args`` in the environment ``folder``."""
    head = [sys.executable, "-I", __file__, str(folder), package.module]
    return [*head, *package.uris, END_OF_URIS, *args]


def main(folder: Path, module: str, uris: Sequence[str], args: Sequence[str]) -> int:
    """Becomes the module's process. Returns 1 when a package cannot be installed."""
    try:
        python = _environment(folder)
        files = [_fetched(uri, folder / "packages" / str(n)) for n, uri in enumerate(uris)]
        _install(python, files)
    except (InstallError, OSError) as error:
        print(f"cannot install the job's packages: {shown(error)}", file=sys.stderr)
        return 1
    sys.stdout.flush()
    os.execv(python, [str(python), "-m", module, *args])


def _environment(folder: Path) -> Path:
    """Makes the environment anew. Returns its interpreter."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.EnvBuilder(symlinks=True).create(folder)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    mine = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    # Not system_site_packages: that is the base interpreter's, not that of this environment.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in mine]
    Path(paths["purelib"], "emulator.pth").write_text("".join(lines))
    return folder / "bin" / "python"


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


def _install(python: Path, files: Sequence[Path]) -> None:
    options = ("--no-index", "--no-build-isolation", "--no-input", "--disable-pip-version-check")
    done = subprocess.run(
        [python, "-I", "-m", "pip", "install", "--quiet", *options, *files],
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
