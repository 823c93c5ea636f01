"""Whether the processes of a torchrun script train together, or each of them by itself.

A script that never calls ``init_process_group()`` is started in every process all the same, as by
torchrun itself. Each of them trains a model of its own then, and nothing fails. So rank 0 says so
when an optimizer has made its first step and no group has been formed, in a line of the pipe that
it reports by.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress

from trainer.reporting import ENV_REPORT

LINE = b'{"process_group": false}'


def watch(environ: Mapping[str, str]) -> None:
    """Has this process say so when it trains by itself.

    Only where torch has been imported already, as in every process that is forked of its keeper: a
    script may have variables to set before it imports torch itself.
    """
    world_size, pipe = environ.get("WORLD_SIZE", ""), environ.get(ENV_REPORT, "")
    several = world_size.isdecimal() and int(world_size) > 1
    if not (several and pipe.isdecimal() and "torch" in sys.modules):
        return
    from torch import distributed
    from torch.optim.optimizer import register_optimizer_step_post_hook

    looked = False

    def look(*_: object) -> None:
        nonlocal looked
        if looked:  # torch goes through its hooks meanwhile: none of them can be taken away
            return
        looked = True
        if not (distributed.is_available() and distributed.is_initialized()):
            with suppress(OSError):
                os.write(int(pipe), LINE + b"\n")

    register_optimizer_step_post_hook(look)
