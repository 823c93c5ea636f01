"""Google's client, imported without all that nobody here asks it for.

google-cloud-aiplatform imports every service of Vertex AI as soon as the package is named, and all
messages as soon as one is, which takes most of the time that ``swell launch`` needs to begin. Swell
wants one of them. So both packages are put in their places without having run; each runs when
something else of it is asked for, by a program that launches jobs and uses Vertex AI beside, for
instance.
"""

from __future__ import annotations

import sys
import threading
import warnings
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

PACKAGE = "google.cloud.aiplatform_v1"
MESSAGES = f"{PACKAGE}.types"
SERVICE = f"{PACKAGE}.services.job_service"

_importing = threading.RLock()


def import_client() -> None:
    """Imports Google's client, which the first request would do otherwise.

    One thread at a time: two that enter the package from different ends meet half-made
    modules.
    """
    with _importing, suppress(ImportError):  # the first request says it
        # That Google will stop supporting this Python is nothing for whoever starts a run.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.")
        if PACKAGE not in sys.modules:
            _put_in_place(PACKAGE)
            _put_in_place(MESSAGES)
        import_module(SERVICE)


def _put_in_place(full: str) -> None:
    spec = find_spec(full)
    if spec is None:
        raise ImportError(f"there is no {full}")
    package = module_from_spec(spec)
    package.__class__ = _Asleep
    sys.modules[full] = package
    around, _, name = full.rpartition(".")
    setattr(sys.modules[around], name, package)


class _Asleep(ModuleType):
    """A package that has not run: it knows its modules, and runs for any other name."""

    def __getattr__(self, name: str) -> Any:
        with _importing:
            if self.__class__ is _Asleep:
                if find_spec(f"{self.__name__}.{name}"):
                    return import_module(f"{self.__name__}.{name}")
                self.__class__ = ModuleType  # type: ignore[assignment]  # a module like any other
                assert self.__spec__ and self.__spec__.loader
                self.__spec__.loader.exec_module(self)
        return getattr(self, name)
