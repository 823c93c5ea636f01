"""Data that packages ship: read from their folders, without importing them.

An import of scikit-learn takes every worker a second; and what is needed is a file.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def shipped(file: str, by: str) -> Path:
    """Where a file of a package is.

    Args:
        file: its path, which begins with the package's folder.
        by: the name that pip knows the package by.

    Returns the path, whether it is read or not.

    Raises ModuleNotFoundError when the package is not installed, and FileNotFoundError when it
    has no such file in this version.
    """
    package, _, rest = file.partition("/")
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}: pip install {by}")
    path = Path(found.submodule_search_locations[0], rest)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not in this version of {by}")
    return path
