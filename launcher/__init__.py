"""Swell's launcher: what runs on your machine.

    from launcher import Job, Pool, launch

    run = launch(Job(name="digits", task="trainer.tasks.digits:Digits",
                     pools=[Pool(machine="a2-highgpu-1g")]))
    run.wait()

Imported lazily, so that ``swell --help`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.draft import LaunchError as LaunchError
    from launcher.home import RunError as RunError
    from launcher.job.checkpoint import Checkpoint as Checkpoint
    from launcher.job.code import Code as Code
    from launcher.job.fallback import Fallback as Fallback
    from launcher.job.fallback import Limits as Limits
    from launcher.job.fallback import Resubmit as Resubmit
    from launcher.job.job import Elastic as Elastic
    from launcher.job.job import Job as Job
    from launcher.job.jobfile import JobFileError as JobFileError
    from launcher.job.notify import Notify as Notify
    from launcher.job.pool import Container as Container
    from launcher.job.pool import Package as Package
    from launcher.job.pool import Pool as Pool
    from launcher.job.scheduling import Scheduling as Scheduling
    from launcher.job.telemetry import Telemetry as Telemetry
    from launcher.local.emulator import LocalError as LocalError
    from launcher.run import Run as Run
    from launcher.run import attach as attach
    from launcher.run import launch as launch
    from launcher.status.status import Outcome as Outcome
    from launcher.target import load_job as load_job

# By the modules that they are in. (Said twice: type checkers and editors read the imports, which
# must not happen at run time. And no module is called ``launch``: as a submodule it would hide the
# function.)
_NAMES = {
    "draft": "LaunchError",
    "home": "RunError",
    "job.code": "Code",
    "job.fallback": "Fallback Limits Resubmit",
    "job.jobfile": "JobFileError",
    "job.notify": "Notify",
    "job.telemetry": "Telemetry",
    "job.pool": "Container Package Pool",
    "job.scheduling": "Scheduling",
    "job.checkpoint": "Checkpoint",
    "job.job": "Elastic Job",
    "local.emulator": "LocalError",
    "run": "Run attach launch",
    "status.status": "Outcome",
    "target": "load_job",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"launcher.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'launcher' has no attribute {name!r}")
