"""The user's code as a Python package, for replicas that run no agent of Swell's.

Vertex AI's pythonPackageSpec installs source distributions with pip and runs a module of theirs. A
folder with a ``pyproject.toml`` or ``setup.py`` is one as it is; any other gets a ``setup.py`` that
names all its modules and packages, what is beside them, and what the code requires.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainer.rundir import bundle
from trainer.rundir.bundle import File
from trainer.rundir.names import CODE

NAME = "swell-code"


def package_url(run_dir: str, sha256: str) -> str:
    """Returns where the package of a run's code is."""
    return f"{run_dir}/{package_name(sha256)}"


def package_name(sha256: str) -> str:
    """Returns the package's name in the run directory."""
    return f"{CODE}/{NAME}-{sha256[:32]}.tar.gz"


def build(files: Sequence[File], requirements: str | None) -> bytes:
    """Returns the source distribution.

    Args:
        files: the code.
        requirements: the name of the file among them that lists what it requires.
    """
    own = {file.name for file in files} & {"pyproject.toml", "setup.py"}
    made = [] if own else [File("setup.py", _setup(files, requirements).encode())]
    return bundle.encode([*files, *made], folder=f"{NAME}-0")


def _setup(files: Sequence[File], requirements: str | None) -> str:
    modules: list[str] = []
    packages: set[str] = set()
    for file in files:
        *folders, own = file.name.split("/")
        stem, dot, kind = own.rpartition(".")
        if dot and kind == "py" and all(map(str.isidentifier, [*folders, stem])):
            if folders:
                packages.update(".".join(folders[: n + 1]) for n in range(len(folders)))
            else:
                modules.append(stem)
    arguments = {
        "name": NAME,
        "version": "0",
        "py_modules": sorted(modules),
        "packages": sorted(packages),
        "package_data": {"": ["*"]},
        "install_requires": _required(files, requirements),
    }
    lines = "".join(f"    {name}={value!r},\n" for name, value in arguments.items())
    return f"from setuptools import setup\n\nsetup(\n{lines})\n"


def _required(files: Sequence[File], requirements: str | None) -> list[str]:
    """Returns the requirements that are names and versions; a package can carry no other."""
    text = next((file.data for file in files if file.name == requirements), b"").decode()
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line and line[0].isalnum() and "://" not in line]
