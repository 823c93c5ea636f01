"""Whether the processes of a torchrun script train together, or each of them by itself.

A script that never calls ``init_process_group()`` is started in every process all the same, as by
torchrun itself; and one that calls it need not sum anything. Each process trains a model of its own
then, and nothing fails. So rank 0 says so, in a line of the pipe that it reports by: when an
optimizer has made its first step and no group has been formed, or when it has made many and nothing
at all was ever sent through a group.

That is little: who has had one barrier is trusted. But what trains together is never suspected. All
that torch has for it sends something before the first step or in it, and what averages models now
and then does so when it begins, but for a few that rely on seeds.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from trainer.reporting import ENV_REPORT

NO_GROUP = b'{"process_group": false}'
UNUSED = b'{"process_group": "unused"}'
MANY = 100  # steps
# What may sum gradients without a group that torch knows of.
OTHERS: tuple[str, ...] = ("cupy", "hivemind", "horovod", "mpi4py", "ray", "torchcomms", "torchft")


def watch(environ: Mapping[str, str]) -> None:
    """Has this process say so when it trains by itself.

    Only where torch has been imported already, as in every process that is forked of its keeper: a
    script may have variables to set before it imports torch itself.
    """
    world_size, pipe = environ.get("WORLD_SIZE", ""), environ.get(ENV_REPORT, "")
    several = world_size.isdecimal() and int(world_size) > 1
    if not (several and pipe.isdecimal() and "torch" in sys.modules):
        return
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(_Look(int(pipe)))


class _Look:
    """Looks after each step of the optimizer that has made the first one, until all is known."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._optimizer: weakref.ref[Any] | None = None
        self._left = MANY  # 0 when all is known: a hook cannot go while torch goes through them

    def __call__(self, optimizer: Any, *_: object) -> None:
        if not self._left:
            return
        if self._optimizer is None:
            self._optimizer = weakref.ref(optimizer)
        if self._optimizer() is not optimizer:
            return
        from torch import distributed

        self._left -= 1
        if not (distributed.is_available() and distributed.is_initialized()):
            self._say(NO_GROUP)
        elif not _all_silent():
            self._left = 0
        elif not self._left:
            self._say(UNUSED)

    def _say(self, line: bytes) -> None:
        self._left = 0
        with suppress(OSError):
            os.write(self._pipe, line + b"\n")


def _all_silent() -> bool:
    """Whether it is sure that nothing was ever sent through any group of this process."""
    if any(name in sys.modules for name in OTHERS):
        return False
    try:
        from torch.distributed import distributed_c10d

        rpc: Any = import_module("torch.distributed.rpc")
        if rpc._is_current_rpc_agent_set():
            return False
        groups = list(distributed_c10d._world.pg_map)
        return all(
            _silent(group._get_backend(device))
            for group in groups
            for device in group._device_types
        )
    except (AttributeError, ImportError, RuntimeError):  # a torch that says nothing of it
        return False


def _silent(backend: Any) -> bool:
    match type(backend).__name__:
        case "ProcessGroupGloo":
            pass
        case "ProcessGroupNCCL":
            # It counts what all do together; what one sends another makes a communicator.
            if backend._is_initialized():
                return False
        case _:
            return False
    return bool(backend._get_sequence_number_for_group() == 0)
