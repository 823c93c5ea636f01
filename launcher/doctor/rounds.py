"""Which checks a job gets on a target."""

from __future__ import annotations

import os
from collections.abc import Mapping

from launcher.doctor.checkup import Check
from launcher.doctor.localchecks import common_checks, local_checks
from launcher.job.job import Job, TargetName


def checks_of(
    job: Job, target: TargetName, environment: Mapping[str, str] = os.environ
) -> list[Check]:
    """Returns the checks, in the order in which they are shown.

    Args:
        job: one that ``launcher.job.fitness`` has nothing to say against.
        target: where it is to run.
        environment: may name emulators of Vertex AI and of Cloud Storage. Of other APIs there are
            none then: asking Google's about an emulated project would tell nothing.
    """
    if target == "local":
        return [*common_checks(job), *local_checks(job)]
    from launcher.api.client import import_client
    from launcher.api.transport import ENV_ENDPOINT, is_emulator
    from launcher.doctor.cloud import Cloud
    from launcher.doctor.controllerchecks import controller_checks
    from launcher.doctor.vertexchecks import vertex_checks

    import_client()  # here, and not in several threads at once
    endpoint = environment.get(ENV_ENDPOINT)
    storage = environment.get("STORAGE_EMULATOR_HOST")
    cloud = Cloud(
        job.project or "",
        {"storage": storage.rstrip("/")} if storage else {},
        emulated=bool(endpoint and is_emulator(endpoint)),
    )
    return [
        *common_checks(job),
        *vertex_checks(job, cloud, endpoint),
        *controller_checks(job, cloud),
    ]
