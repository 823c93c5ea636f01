"""CLUSTER_SPEC and host names: how a replica learns who its peers are."""

from __future__ import annotations

import json
from collections.abc import Sequence

from launcher.emulator.customjobs import Pool

PORT = 2222
OPEN_PORTS = [3333]


def hostname(job_id: str, replica: str) -> str:
    """The host name of ``replica`` (``workerpool1-0``); it survives the replica's restarts."""
    pool, _, index = replica.rpartition("-")
    return f"cmle-training-{pool}-{_suffix(job_id)}-{index}"


def cluster_spec(job_id: str, pools: Sequence[Pool], replica: str) -> str:
    """Returns the value of CLUSTER_SPEC on ``replica``, in the documented form."""
    pool, _, index = replica.rpartition("-")
    cluster = {
        pool.name: [f"{hostname(job_id, name)}:{PORT}" for name in pool.replica_names()]
        for pool in pools
    }
    # The documented "job" is a JSON string. It must not carry the job's environment: that
    # holds secrets, and programs print their CLUSTER_SPEC.
    job = {"python_module": "", "package_uris": [], "job_args": []}
    return json.dumps(
        {
            "cluster": cluster,
            "environment": "cloud",
            "task": {"type": pool, "index": int(index)},
            "job": json.dumps(job),
            "open_ports": OPEN_PORTS,
        }
    )


def _suffix(job_id: str) -> str:
    return f"{int(job_id) % 16**10:010x}" if job_id.isdigit() else job_id
