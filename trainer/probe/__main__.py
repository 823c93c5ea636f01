"""``python -m trainer.probe``: looks around on this VM, meets those of the other jobs, reports.

The environment is a replica's: SWELL_RUN_DIR is the folder of the reports, SWELL_ATTEMPT the number
of this job, and SWELL_PROBE the secret that the jobs share. What is found is not judged here.

    reports/1-workerpool0-0.json    what this VM has found; rewritten when it knows more

Exit code 0 when it has reported, 1 when it could not.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.probe.meeting import Meeting
from trainer.probe.surroundings import environment_names, host, metadata, spec_shape
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import (
    ENV_ADDRESS,
    ENV_ATTEMPT,
    ENV_PROBE,
    ENV_RUN_DIR,
    EXIT_FAILED,
    EXIT_OK,
    REPORTS,
)
from trainer.rundir.usererror import shown

JOBS = 2
PATIENCE = 600.0  # seconds that it waits for the other job's VM; its own timeout is longer
REPORTING = 60.0  # seconds that it waits for the other one's report
LOOK_EVERY = 1.0  # seconds


def probe(
    env: Mapping[str, str],
    folder: RunDirectory,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, Any]:
    """Looks around, reports, meets the other job's VM, and reports again.

    Args:
        env: the environment.
        folder: where the reports are.
        clock: monotonic seconds.
        sleep: waits for so many seconds.

    Returns the report. Raises OSError, and KeyError for an environment that is none of a probe.
    """
    shape = spec_shape(env.get("CLUSTER_SPEC"))
    name = f"{env[ENV_ATTEMPT]}-{shape['replica'] or 'unknown'}"
    report: dict[str, Any] = {
        "attempt": int(env[ENV_ATTEMPT]),
        "replica": shape["replica"],
        "at": time.time(),
        "host": host(Path("/")),
        "cluster_spec": shape,
        "metadata": metadata(env),
        "environment": environment_names(env),
        "peers": [],
    }
    folder.write_json(f"{REPORTS}/{name}.json", report)  # should the other job never begin
    address = env.get(ENV_ADDRESS, "")
    with Meeting(folder, name, env[ENV_PROBE], report["host"], address) as meeting:
        until = clock() + PATIENCE
        while len(meeting.cards()) < JOBS and clock() < until:
            sleep(LOOK_EVERY)
        report["peers"] = meeting.measure()
        folder.write_json(f"{REPORTS}/{name}.json", report)
        until = clock() + REPORTING
        while not meeting.others_are_done() and clock() < until:
            sleep(LOOK_EVERY)
    return report


def main() -> int:
    """Probes. Returns the exit code."""
    try:
        report = probe(os.environ, RunDirectory(os.environ[ENV_RUN_DIR]))
    except (OSError, ValueError) as error:
        print(f"swell-probe: {shown(error)}", file=sys.stderr)
        return EXIT_FAILED
    except KeyError as missing:
        print(f"swell-probe: {missing} is not set; swell doctor --probe sets it", file=sys.stderr)
        return EXIT_FAILED
    print(f"swell-probe: reported; {len(report['peers'])} peers", flush=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
