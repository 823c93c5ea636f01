"""Runs as a launch leaves them: a run directory, and a CustomJob that the API has."""

from __future__ import annotations

from typing import Any

from launcher import home
from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory

PARENT = "projects/p/locations/us-central1/customJobs"
SPEC = {
    "name": "digits",
    "task": "m:C",
    "project": "p",
    "regions": ["us-central1"],
    "pools": [{"machine": "a2-highgpu-1g"}, {"machine": "a2-highgpu-1g", "replicas": 2}],
}


def record_run(
    run_id: str,
    *,
    target: str = "vertex",
    created: float = 1e9,
    by: str = "x@elsewhere",
    fleet: int = 1,
) -> RunDirectory:
    """Writes run.json where this machine finds it."""
    directory = home.directory_for(run_id, None)
    record = {"id": run_id, "target": target, "created": created, "by": by}
    record |= {"spec": {**SPEC, "fleet": fleet} if fleet > 1 else SPEC}
    record |= formats.RUN.stamp()
    home.create(directory, record)
    return directory


def record_attempt(directory: RunDirectory, endpoint: str, number: int = 1, **fields: Any) -> None:
    """Writes the record of an attempt."""
    directory.write_json(
        f"attempts/{number:04d}.json",
        {
            "attempt": number,
            "region": "us-central1",
            "endpoint": endpoint,
            "job": f"{PARENT}/{number}",
            "state": "PENDING",
            "reason": "",
            "submitted": 1e9,
            "ended": None,
            **fields,
        },
    )


def custom_job(
    run_id: str, number: int = 1, state: str = "RUNNING", attempt: int = 1
) -> dict[str, Any]:
    """A CustomJob as the API has it."""
    return {
        "name": f"{PARENT}/{number}",
        "displayName": run_id,
        "state": f"JOB_STATE_{state}",
        "labels": {"swell-run": run_id, "swell-attempt": str(attempt)},
        "createTime": f"2026-01-01T12:00:0{number}Z",
        "jobSpec": {"baseOutputDirectory": {"outputUriPrefix": f"gs://bucket/{run_id}"}},
    }
