"""The job that a fallback makes of a job, purely: plain fields in, plain fields out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from launcher.job.fallback import Fallback
from launcher.job.machines import MACHINES

Fields = dict[str, Any]

# Of the run as a whole, not of one way to run it.
_OF_THE_RUN = ("fallback", "resubmit", "limits", "controller", "local")


def vary(
    fields: Mapping[str, Any], fallback: Fallback, workers: Sequence[int], most: int
) -> Fields:
    """Returns the fields of the job that ``fallback`` stands for.

    Args:
        fields: of the job, as ``Job.to_dict`` has them.
        fallback: what is different.
        workers: how many workers each of its pools has, 0 for a pool that trains nothing.
        most: how many workers of one CustomJob the run has use for.
    """
    varied = {name: value for name, value in fields.items() if name not in _OF_THE_RUN}
    if isinstance(elastic := varied.get("elastic"), Mapping):  # the run's, not this job's
        varied["elastic"] = {k: v for k, v in elastic.items() if k != "max_workers"}
    if fallback.regions is not None:
        varied["regions"] = list(fallback.regions)
    if fallback.pools is not None:
        varied["pools"] = [
            pool.model_dump(mode="json", exclude_unset=True) for pool in fallback.pools
        ]
    elif fallback.machine is not None:
        varied["pools"] = _on(fallback.machine, fields["pools"], workers, most)
    if fallback.strategy is not None:
        varied["scheduling"] = _scheduling(fields.get("scheduling"), fallback.strategy)
    return varied


def _on(machine: str, pools: Sequence[Fields], workers: Sequence[int], most: int) -> list[Fields]:
    """The pools on other machines: as many replicas as give the same workers, or nearly so."""
    found: list[Fields] = []
    slots: list[int] = []
    for index, (pool, wanted) in enumerate(zip(pools, workers, strict=True)):
        kept = {name: value for name, value in pool.items() if name != "accelerators"}
        each = kept.get("slots") or MACHINES[machine].gpus
        replicas = kept.get("replicas", 1)
        if index and wanted:  # the first pool has one replica, whatever it can do
            replicas = math.ceil(wanted / each)
        found.append({**kept, "machine": machine, "replicas": replicas})
        slots.append(each if wanted else 0)
    # The first pool may have become larger: nobody pays for what no world would take in.
    for pool, each in zip(reversed(found[1:]), reversed(slots[1:]), strict=True):
        while each and pool["replicas"] > 1 and _total(found, slots) - each >= most:
            pool["replicas"] -= 1
    # What the first pool has lost, the last one that trains makes up for.
    growing = next((n for n in range(len(found) - 1, 0, -1) if slots[n]), None)
    if growing is not None:
        lacking = sum(workers) - _total(found, slots)
        found[growing]["replicas"] += max(0, math.ceil(lacking / slots[growing]))
    return found


def _total(pools: Sequence[Fields], slots: Sequence[int]) -> int:
    return sum(pool["replicas"] * each for pool, each in zip(pools, slots, strict=True))


def _scheduling(given: Any, strategy: str) -> Fields:
    kept = {"strategy": given} if isinstance(given, str) else dict(given or {})
    if strategy != "flex_start":
        kept.pop("max_wait_duration", None)
    return {**kept, "strategy": strategy}
