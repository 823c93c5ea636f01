"""What a VM of the chaos tests has that a process of this machine has not; Python imports it.

``CHAOS_CLOCK``   seconds by which the VM's clocks are off
``CHAOS_CUT``     while this file exists, the VM cannot reach the run directory
"""

import errno
import os
import sys
import time
from typing import Any

from trainer.rundir.names import ENV_RUN_DIR

# The audit events of whatever a store does on a local disk; the path is the first argument.
STORE = frozenset({"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.link"})


def shift_clocks(seconds: float) -> None:
    """Wall clock and monotonic clock are off by so much."""
    wall, monotonic = time.time, time.monotonic
    time.time = lambda: wall() + seconds
    time.monotonic = lambda: monotonic() + seconds


def cut_off(folder: str, cut: str) -> None:
    """Nothing in ``folder`` can be reached while ``cut`` exists."""

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event in STORE and str(args[0]).startswith(folder) and os.path.exists(cut):
            raise OSError(errno.EIO, "the store is out of reach", args[0])

    sys.addaudithook(refuse)


if offset := os.environ.get("CHAOS_CLOCK"):
    shift_clocks(float(offset))
if cut := os.environ.get("CHAOS_CUT"):
    cut_off(os.environ[ENV_RUN_DIR], cut)
