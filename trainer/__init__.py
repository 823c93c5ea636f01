"""Swell's trainer: what runs on the VMs.

    from trainer import Schedule, Task, decay_groups, fit

Imported lazily, so that the launcher can use ``trainer.rundir.directory`` without torch. (The
modules of ``fit`` and ``report`` are called otherwise: a submodule would hide the function.)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Before gRPC is imported: it would write a line about every stranger who knocks.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

if TYPE_CHECKING:
    from trainer.loop import fit as fit
    from trainer.reporting import report as report
    from trainer.task import Task as Task
    from trainer.training.groups import decay_groups as decay_groups
    from trainer.training.schedule import Schedule as Schedule

__all__ = ["Schedule", "Task", "decay_groups", "fit", "report"]


def __getattr__(name: str) -> Any:
    if name == "Task":
        from trainer.task import Task

        return Task
    if name == "fit":
        from trainer.loop import fit

        return fit
    if name == "report":
        from trainer.reporting import report

        return report
    if name == "Schedule":
        from trainer.training.schedule import Schedule

        return Schedule
    if name == "decay_groups":
        from trainer.training.groups import decay_groups

        return decay_groups
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")
