"""Finding a user's class by the name in their job file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def load_class(name: str) -> Any:
    """Returns the class that ``module:Class`` or ``path/to/file.py:Class`` names.

    Raises ValueError for any other form, ImportError when the module cannot be found,
    and AttributeError when it has no such class.
    """
    where, colon, attribute = name.rpartition(":")
    if not (where and colon and attribute):
        raise ValueError(f"task {name!r} is not module:Class or path/to/file.py:Class")
    module = _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    if not hasattr(module, attribute):
        raise AttributeError(f"{where} has no class {attribute!r}")
    return getattr(module, attribute)


def _load_file(path: Path) -> ModuleType:
    # A file called json.py, say, must not become everybody's json.
    name = f"task_{path.stem}" if path.stem in sys.modules else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"no file {path}")
    # As if the file had been started: what lies beside it can be imported.
    sys.path.insert(0, str(path.resolve().parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
