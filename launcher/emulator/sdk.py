"""Google's own clients in this process, pointed at an emulator.

    from launcher.emulator import sdk
    sdk.init("DIR", project="my-project")

From then on ``google.cloud.aiplatform`` sends jobs to the emulator with that state directory, and
gcsfs and google-cloud-storage find its buckets.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from launcher.emulator.state import whereabouts
from launcher.emulator.token import read_token
from trainer.rundir.usererror import UserError


class NotRunning(UserError):
    """No emulator serves this state."""


def init(
    state: Path | str, project: str = "local", location: str = "us-central1", **options: Any
) -> None:
    """Points Google's clients at an emulator, as ``aiplatform.init`` points them at Vertex AI.

    Args:
        state: its state directory (``swell emulator --state``).
        project, location: any; jobs are listed by them.
        options: more for ``aiplatform.init``, ``staging_bucket`` above all.

    Raises NotRunning, and TokenError when the state is not this user's.
    """
    where = whereabouts(Path(state))
    if where is None or not where.endpoint:
        raise NotRunning(
            "SW2215", f"no emulator serves {state}; start one: swell emulator --state {state}"
        )
    from google.cloud import aiplatform  # late: it takes seconds
    from google.oauth2.credentials import Credentials

    token = read_token(Path(state)).text
    os.environ["STORAGE_EMULATOR_HOST"] = where.storage
    # gcsfs would ask for the buckets' layout by gRPC first, which is not served, and wait.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    aiplatform.init(
        project=project,
        location=location,
        api_endpoint=where.endpoint,
        api_transport="rest",
        credentials=Credentials(token),  # type: ignore[no-untyped-call]
        **options,
    )
