"""CLUSTER_SPEC and host names: how a replica learns who its peers are.

The documentation shows one form; samples and logs show others. Programs should read all
of them, so the emulator can write all of them (``--cluster-spec-form``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from launcher.emulator.resources.customjobs import Pool

PORT = 2222
OPEN_PORTS = [3333]

# How a CLUSTER_SPEC may differ from the documented one.
FORMS = {
    "job-object": "job is an object, not a text that holds one",
    "no-open-ports": "open_ports is missing",
    "trial": "task has a trial, as in hyperparameter tuning",
    "chief": "the primary of a job with one replica is called chief",
}


def hostname(job_id: str, replica: str) -> str:
    """The host name of ``replica`` (``workerpool1-0``); it survives the replica's restarts."""
    pool, _, index = replica.rpartition("-")
    return f"cmle-training-{pool}-{_suffix(job_id)}-{index}"


def cluster_spec(
    job_id: str, pools: Sequence[Pool], replica: str, forms: frozenset[str] = frozenset()
) -> str:
    """Returns the value of CLUSTER_SPEC on ``replica``.

    Args:
        job_id: the job's number.
        pools: all pools of the job.
        replica: whose variable it is.
        forms: keys of ``FORMS``; none for the documented form.
    """
    name, _, index = replica.rpartition("-")
    alone = "chief" in forms and sum(pool.replicas for pool in pools) == 1
    cluster = {
        "chief" if alone else pool.name: [
            f"{hostname(job_id, one)}:{PORT}" for one in pool.replica_names()
        ]
        for pool in pools
    }
    task: dict[str, Any] = {"type": "chief" if alone else name, "index": int(index)}
    if "trial" in forms:
        task["trial"] = "1"
    # Not the whole job: its environment holds secrets, and programs print their CLUSTER_SPEC.
    (pool,) = (pool for pool in pools if pool.name == name)
    package = pool.package
    job = {
        "python_module": package.module if package else "",
        "package_uris": list(package.uris) if package else [],
        "job_args": list(pool.args) if package else [],
    }
    spec: dict[str, Any] = {
        "cluster": cluster,
        "environment": "cloud",
        "task": task,
        "job": job if "job-object" in forms else json.dumps(job),
        "open_ports": OPEN_PORTS,
    }
    if "no-open-ports" in forms:
        del spec["open_ports"]
    return json.dumps(spec)


def _suffix(job_id: str) -> str:
    return f"{int(job_id) % 16**10:010x}" if job_id.isdigit() else job_id
