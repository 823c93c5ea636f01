"""The environment of a VM: small and explicit, never that of whoever started the emulator."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from launcher.emulator.vms.commands import SYSTEM_PATH
from launcher.emulator.vms.interpreter import Interpreter

# What a VM takes over from the emulator: where things are, nothing about the user.
PASSED_ON = (
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",  # else each worker has its share of the cores
    "STORAGE_EMULATOR_HOST",  # set by the emulator itself: where gs:// is
)


def base_environment(
    interpreter: Interpreter, workers: int = 1, host: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Returns what every VM starts from that shares this machine's files.

    Args:
        interpreter: the VM's own, which is first on PATH; the emulator's environment is next.
        workers: how many workers of all VMs share this machine's cores. Each is told its
            share, unless the emulator was told a number: threads that wait for one another on
            too few cores cost four times the time.
        host: the emulator's own environment.
    """
    environment = {"LANG": "C.UTF-8", "HOME": "/", **image_environment(workers)}
    environment.update((name, host[name]) for name in PASSED_ON if name in host)
    return environment | interpreter.variables(f"{Path(sys.executable).parent}:{SYSTEM_PATH}")


def image_environment(workers: int = 1) -> dict[str, str]:
    """Returns what a VM with an image starts from: the rest is the image's.

    Args:
        workers: as for ``base_environment``.
    """
    threads = max(1, (os.cpu_count() or 1) // max(1, workers))
    return {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
        # gcsfs asks for the layout of a bucket by gRPC first, and waits a minute where, as here,
        # only REST is served. What it is told there is that names are flat, which they are.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


def container_environment(
    base: Mapping[str, str],
    given: Iterable[tuple[str, str]],
    service: Mapping[str, str],
) -> dict[str, str]:
    """Returns the variables of a container.

    Args:
        base: what the image and the VM define; the job may override it.
        given: the job's own variables in order; each may refer to earlier ones.
        service: what the service defines; the job may refer to it but not override it.
    """
    environment = {**base, **service}
    for name, value in given:
        if name not in service:
            environment[name] = expand(value, environment)
    return environment


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replaces ``$(NAME)`` by the variable's value.

    A reference to a name that is not defined stays as it is, and ``$$`` stands for one
    ``$``, so ``$$(NAME)`` comes out as ``$(NAME)``.
    """
    parts: list[str] = []
    position = 0
    while (dollar := text.find("$", position)) >= 0:
        parts.append(text[position:dollar])
        following = text[dollar + 1 : dollar + 2]
        close = text.find(")", dollar) if following == "(" else -1
        if following == "$":
            parts.append("$")
            position = dollar + 2
        elif close >= 0:
            reference = text[dollar : close + 1]
            parts.append(variables.get(reference[2:-1], reference))
            position = close + 1
        else:
            parts.append("$")
            position = dollar + 1
    parts.append(text[position:])
    return "".join(parts)
