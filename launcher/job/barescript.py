"""The job of a script alone: ``swell launch train.py -- --lr 3e-4``. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DEFAULT_POOLS = ("a2-highgpu-1g", "a2-highgpu-1g")  # two machines: one can go


def is_bare_script(job: str) -> bool:
    """Whether what is to be launched is a script, and no job file."""
    return job.endswith(".py")


def job_of_script(
    script: str, args: Sequence[str], pools: Sequence[str], *, send: bool, field: str = "torchrun"
) -> dict[str, Any]:
    """Returns the job file that stands for a script.

    Args:
        script: its path.
        args: its arguments.
        pools: in the short form, ``3 x MACHINE``; none for two small machines.
        send: whether the script's folder is sent along.
        field: ``torchrun``, or ``script`` for what Horovod or Swell's loop trains.
    """
    tree: dict[str, Any] = {
        "name": name_of(Path(script).stem),
        "pools": list(pools or DEFAULT_POOLS),
    }
    if field == "torchrun":
        tree["torchrun"] = {"script": Path(script).name, "args": list(args)}
    else:
        tree |= {"script": Path(script).name, "args": list(args)}
    if send:
        tree["code"] = "."
    return tree


def name_of(stem: str) -> str:
    """A run's name, of the script's."""
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    return (plain if plain[:1].isalpha() else f"run-{plain}")[:40].strip("-")
