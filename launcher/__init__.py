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
    from launcher.jobfile import JobFileError as JobFileError
    from launcher.jobfile import load_job as load_job
    from launcher.pool import Container as Container
    from launcher.pool import Package as Package
    from launcher.pool import Pool as Pool
    from launcher.run import LaunchError as LaunchError
    from launcher.run import Run as Run
    from launcher.run import launch as launch
    from launcher.scheduling import Scheduling as Scheduling
    from launcher.spec import Checkpoint as Checkpoint
    from launcher.spec import Elastic as Elastic
    from launcher.spec import Job as Job
    from launcher.status import Outcome as Outcome

_HOMES = {
    "Checkpoint": "spec",
    "Container": "pool",
    "Elastic": "spec",
    "Job": "spec",
    "JobFileError": "jobfile",
    "LaunchError": "run",
    "Outcome": "status",
    "Package": "pool",
    "Pool": "pool",
    "Run": "run",
    "Scheduling": "scheduling",
    "launch": "run",
    "load_job": "jobfile",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"launcher.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'launcher' has no attribute {name!r}")
