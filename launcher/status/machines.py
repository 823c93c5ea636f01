"""What the machines of a run did last, as its leader has gathered it.

That is written every five minutes (trainer.coordinator.machines), so of a run that has just begun
there is nothing yet.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import MACHINES
from trainer.rundir.numbers import number_in
from trainer.rundir.xids import xid_in_words

LIMIT = 2**25  # bytes of one file, and of what is in it
_FILE = re.compile(r"[0-9]{6,12}-[0-9]{6,12}\.jsonl\.gz")
_GPU = re.compile(r"gpu([0-9]+)_(\w+)")
_GPUS = 16  # of one machine, at most

Machines = Mapping[str, Mapping[str, Any]]


def newest_machines(run_dir: RunDirectory) -> dict[str, dict[str, Any]]:
    """Returns each machine's newest figures, by its replica; what is damaged is left out.

    ``{"workerpool1-0": {"time": 1764000000.0, "cpu": 0.3, "gpus": [{"used": 0.97, "xid": 0}]}}``:
    parts are from 0 to 1, rates bytes a second (trainer.telemetry.machine).

    Raises OSError when the store does not answer.
    """
    names = [name for name in run_dir.store.names(MACHINES) if _FILE.fullmatch(name)]
    if not names:
        return {}
    newest = max(names, key=lambda one: [int(it) for it in one.split(".")[0].split("-")])
    data = run_dir.store.read(f"{MACHINES}/{newest}", LIMIT)
    try:
        text = zlib.decompressobj(wbits=31).decompress(data, LIMIT)
    except zlib.error:
        return {}
    return dict(_machines(text))


def machine_errors(machines: Machines) -> Iterator[str]:
    """Yields the newest critical error of each GPU that has had one, in words."""
    for member, figures in sorted(machines.items()):
        for index, gpu in enumerate(figures.get("gpus", ())):
            if xid := int(gpu.get("xid", 0)):
                yield f"{member}: {xid_in_words(index, xid)}"


def machines_in_words(machines: Machines) -> str:
    """How busy they are on average, and how busy the least busy GPU is; "" without any."""
    if not machines:
        return ""
    cpus = [float(one.get("cpu", 0.0)) for one in machines.values()]
    said = f"processors {sum(cpus) / len(cpus):.0%} used"
    used = [
        (float(gpu.get("used", 0.0)), f"GPU {index} of {member}")
        for member, one in sorted(machines.items())
        for index, gpu in enumerate(one.get("gpus", ()))
    ]
    if used:
        least, which = min(used)
        said += f", GPUs {sum(one for one, _ in used) / len(used):.0%}"
        said += f" (least: {which}, {least:.0%})" if len(used) > 1 else ""
    return said


def _machines(text: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in text.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and isinstance(told.get("member"), str):
            yield told["member"], _newest(told)


def _newest(told: Mapping[str, Any]) -> dict[str, Any]:
    """The last of each figure; those of GPUs by which one it is."""
    found: dict[str, Any] = {}
    gpus: dict[int, dict[str, float]] = {}
    for name, values in told.items():
        value = number_in(values[-1]) if isinstance(values, list) and values else None
        if value is None or not math.isfinite(value):
            continue
        if (gpu := _GPU.fullmatch(name)) is None:
            found[name] = float(value)
        elif len(gpu[1]) < 3 and int(gpu[1]) < _GPUS:
            gpus.setdefault(int(gpu[1]), {})[gpu[2]] = float(value)
    found["gpus"] = [gpus[index] for index in sorted(gpus)]
    return found
