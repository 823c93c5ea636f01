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
    from launcher.home import RunError as RunError
    from launcher.job.code import Code as Code
    from launcher.job.fallback import Fallback as Fallback
    from launcher.job.fallback import Limits as Limits
    from launcher.job.fallback import Resubmit as Resubmit
    from launcher.job.jobfile import JobFileError as JobFileError
    from launcher.job.jobfile import load_job as load_job
    from launcher.job.notify import Notify as Notify
    from launcher.job.pool import Container as Container
    from launcher.job.pool import Package as Package
    from launcher.job.pool import Pool as Pool
    from launcher.job.scheduling import Scheduling as Scheduling
    from launcher.job.spec import Checkpoint as Checkpoint
    from launcher.job.spec import Elastic as Elastic
    from launcher.job.spec import Job as Job
    from launcher.local.emulator import LocalError as LocalError
    from launcher.run import LaunchError as LaunchError
    from launcher.run import Run as Run
    from launcher.run import attach as attach
    from launcher.run import launch as launch
    from launcher.status.status import Outcome as Outcome

_HOMES = {
    "Checkpoint": "job.spec",
    "Code": "job.code",
    "Container": "job.pool",
    "Elastic": "job.spec",
    "Fallback": "job.fallback",
    "Job": "job.spec",
    "JobFileError": "job.jobfile",
    "LaunchError": "run",
    "Limits": "job.fallback",
    "LocalError": "local.emulator",
    "Notify": "job.notify",
    "Outcome": "status.status",
    "Package": "job.pool",
    "Pool": "job.pool",
    "Resubmit": "job.fallback",
    "Run": "run",
    "RunError": "home",
    "Scheduling": "job.scheduling",
    "attach": "run",
    "launch": "run",
    "load_job": "job.jobfile",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"launcher.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'launcher' has no attribute {name!r}")
