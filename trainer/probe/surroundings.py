"""What a VM of Vertex AI's is like from inside a container: facts, without a judgement.

Reports go to a store, where others may read them. So of what may hold secrets, as CLUSTER_SPEC's
``job`` and the environment do, only the form and the names are told.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from trainer.agent.replica import parse_cluster_spec

SERVER = "metadata.google.internal"
LIMIT = 3.0  # seconds for one answer
LONGEST = 300  # characters of one that are told
PREEMPTED = "instance/preempted"
# Of Compute Engine's metadata, what says where this is and what may become of it; no tokens.
VALUES = (
    PREEMPTED,
    "instance/maintenance-event",
    "instance/scheduling/preemptible",
    "instance/zone",
    "instance/machine-type",
    "instance/hostname",
)
TOLD = ("AIP_", "CLOUD_ML_", "NCCL_", "NVIDIA_", "TPU_", "GCE_")


def spec_shape(text: str | None) -> dict[str, Any]:
    """Returns the form of CLUSTER_SPEC.

    ``{given, replica, error, keys: [key, …], pools: {name: [host, …]}, task: [key, …], job,
    open_ports, environment}``: ``replica`` is what Swell's agent makes of it, and ``error`` why it
    cannot; ``job`` is absent, text or object.
    """
    shape: dict[str, Any] = {"given": bool(text), "replica": "", "error": ""}
    try:
        shape["replica"], _ = parse_cluster_spec(text)
    except ValueError as error:
        shape["error"] = str(error).partition(";")[0][:LONGEST]
    with suppress(ValueError, TypeError, AttributeError, RecursionError):
        spec = json.loads(text or "{}")
        job = spec.get("job")
        shape |= {
            "keys": sorted(map(str, spec)),
            "pools": {
                str(pool): [str(one)[:LONGEST] for one in hosts]
                for pool, hosts in spec.get("cluster", {}).items()
            },
            "task": sorted(map(str, spec.get("task", {}))),
            "job": "absent" if job is None else "text" if isinstance(job, str) else "object",
            "open_ports": spec.get("open_ports"),
            "environment": str(spec.get("environment", ""))[:LONGEST],
        }
    return shape


def metadata(env: Mapping[str, str], values: Sequence[str] = VALUES) -> dict[str, Any]:
    """Returns what the metadata server says.

    ``{server, answers, error, values: {path: text or null}}``; of what it does not serve, null.
    """
    server = env.get("GCE_METADATA_HOST", SERVER)
    found: dict[str, Any] = {"server": server, "answers": False, "error": "", "values": {}}
    for path in values:
        try:
            status, text = _get(server, path)
        except (OSError, http.client.HTTPException, ValueError) as error:
            found["error"] = f"{type(error).__name__}: {error}"[:LONGEST]
            if not found["answers"]:  # nor will it answer the others
                return found
            continue
        found["answers"] = True
        found["values"][path] = text.strip()[:LONGEST] if status == 200 else None
    return found


def _get(server: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(server, timeout=LIMIT)
    try:
        headers = {"Metadata-Flavor": "Google"}
        connection.request("GET", f"/computeMetadata/v1/{path}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(4096).decode("utf-8", "replace")
    finally:
        connection.close()


def host(root: Path) -> dict[str, Any]:
    """Returns what this machine is called, where it is in its networks, and who this process is.

    Args:
        root: of its files.
    """
    name, shared = socket.gethostname(), None
    with suppress(OSError):
        memory = os.statvfs(root / "dev" / "shm")
        shared = memory.f_frsize * memory.f_blocks
    return {
        "name": name,
        "full_name": socket.getfqdn(),
        "leads_to": resolved(name),
        "addresses": {
            interface: [one.address for one in addresses if one.family == socket.AF_INET]
            for interface, addresses in psutil.net_if_addrs().items()
        },
        "user": os.getuid(),
        "gcs": (root / "gcs").is_dir(),
        "shared_memory": shared,
        "processors": os.cpu_count(),
    }


def resolved(name: str) -> str:
    """Returns the address that a host's name leads to; empty where it leads nowhere."""
    try:
        return socket.gethostbyname(name)
    except (OSError, UnicodeError):
        return ""


def environment_names(env: Mapping[str, str]) -> list[str]:
    """Returns the names of the variables that the platform sets; never their values."""
    return sorted(name for name in env if name.startswith(TOLD))
