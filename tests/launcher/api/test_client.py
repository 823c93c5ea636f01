"""What Google's package has beside the one service that is used comes when it is asked for.

Each test asks a Python of its own: what is imported stays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from launcher.api.client import PACKAGE

ROOT = __file__.rpartition("/tests/")[0]


def told(program: str) -> Any:
    """What a program, whose last line is JSON, prints in a new process."""
    answer = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{program}"],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


def services(*lines: str, kind: str = "services") -> list[str]:
    """The services of Google's, or its kinds of messages, that are imported after these lines."""
    ask = f"names = [one for one in sys.modules if one.startswith('{PACKAGE}.{kind}.')]"
    found = told("\n".join([*lines, ask, "print(json.dumps(names))"]))
    return sorted({name.split(".")[4] for name in found})


IMPORT = "from launcher.api.client import import_client; import_client()"
CLIENT = "from google.cloud.aiplatform_v1.services.job_service import JobServiceClient"
MESSAGE = "from google.cloud.aiplatform_v1.types.custom_job import CustomJob"


def test_one_service_is_imported_and_no_other() -> None:
    assert services(IMPORT, CLIENT, MESSAGE) == ["job_service"]
    few = services(IMPORT, CLIENT, MESSAGE, kind="types")
    assert {"custom_job", "job_service"} <= {*few} and "tensorboard" not in few


def test_a_program_that_uses_the_package_beside_finds_all_of_it() -> None:
    whole = services(f"import {PACKAGE}")
    assert len(whole) > 10
    for use in (
        "from google.cloud import aiplatform_v1; aiplatform_v1.PipelineServiceClient",
        "from google.cloud.aiplatform_v1 import PipelineServiceClient",
        "from google.cloud.aiplatform_v1 import *; PipelineServiceClient",
        f"import {PACKAGE}; google.cloud.aiplatform_v1.PipelineServiceClient",
    ):
        assert services(IMPORT, use) == whole, use
    use = f"from {PACKAGE}.types import Tensorboard"
    assert services(IMPORT, use, kind="types") == services(use, kind="types")


def test_the_classes_are_the_same_by_whatever_name() -> None:
    same = (
        "aiplatform_v1.JobServiceClient is JobServiceClient, "
        "aiplatform_v1.CustomJob is aiplatform_v1.types.CustomJob is CustomJob"
    )
    lines = [IMPORT, CLIENT, MESSAGE, "from google.cloud import aiplatform_v1"]
    assert told("\n".join([*lines, f"print(json.dumps([{same}]))"])) == [True, True]


def test_a_package_that_is_there_already_stays_what_it_is() -> None:
    lines = [f"import {PACKAGE} as before", IMPORT, f"import {PACKAGE} as after"]
    told_of = "print(json.dumps([before is after, type(after).__name__]))"
    assert told("\n".join([*lines, told_of])) == [True, "module"]


def test_where_it_is_not_installed_the_first_request_says_so() -> None:
    lines = [
        f"sys.modules[{PACKAGE!r}] = None",
        IMPORT,
        "from launcher.api.apierror import ApiError",
        "from launcher.api.vertex import Jobs",
        "try: Jobs('p', 'us-central1', 'http://127.0.0.1:1').get('projects/p')",
        "except ApiError as error: print(json.dumps(str(error)))",
    ]
    assert "Google's client is missing" in told("\n".join(lines))
