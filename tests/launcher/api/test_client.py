"""What Google's package has beside the one service that is used comes when it is asked for.

Each question is asked of a new Python: what is imported stays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

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


IMPORT = "from launcher.api.client import import_client; import_client()"
CLIENT = "from google.cloud.aiplatform_v1.services.job_service import JobServiceClient"
MESSAGE = "from google.cloud.aiplatform_v1.types.custom_job import CustomJob"
ASK = f"names = [one for one in sys.modules if one.startswith('{PACKAGE}.')]"


@dataclass(frozen=True)
class Imported:
    """What is imported of Google's package.

    Attributes:
        services, types: their modules.
        last: what the program's last line said.
    """

    services: frozenset[str]
    types: frozenset[str]
    last: Any


def imported(*lines: str, last: str = "None") -> Imported:
    """What a new process has imported after these lines, and what it then says of ``last``."""
    names, said = told("\n".join([*lines, ASK, f"print(json.dumps([names, {last}]))"]))
    parts = [name.removeprefix(f"{PACKAGE}.").split(".") for name in names]

    def of(kind: str) -> frozenset[str]:
        return frozenset(part[1] for part in parts if part[0] == kind and len(part) > 1)

    return Imported(of("services"), of("types"), said)


@pytest.fixture(scope="module")
def whole() -> Imported:
    """The package as it is without Swell: this takes two seconds of a processor."""
    same = "[before is after, type(after).__name__]"
    return imported(f"import {PACKAGE} as before", IMPORT, f"import {PACKAGE} as after", last=same)


def test_one_service_is_imported_and_no_other() -> None:
    few = imported(IMPORT, CLIENT, MESSAGE)
    assert few.services == {"job_service"}
    assert {"custom_job", "job_service"} <= few.types and "tensorboard" not in few.types


# What the others run is the same, and a soak.
@pytest.mark.parametrize(
    "use",
    [
        "from google.cloud.aiplatform_v1 import PipelineServiceClient",
        *(
            pytest.param(line, marks=pytest.mark.soak)
            for line in (
                "from google.cloud import aiplatform_v1; aiplatform_v1.PipelineServiceClient",
                "from google.cloud.aiplatform_v1 import *; PipelineServiceClient",
                f"import {PACKAGE}; google.cloud.aiplatform_v1.PipelineServiceClient",
            )
        ),
    ],
)
def test_a_program_that_uses_the_package_beside_finds_all_of_it(use: str, whole: Imported) -> None:
    assert len(whole.services) > 10
    assert imported(IMPORT, use).services == whole.services


def test_a_program_that_uses_a_message_beside_finds_all_of_them(whole: Imported) -> None:
    use = f"from {PACKAGE}.types import Tensorboard"
    assert imported(IMPORT, use).types == whole.types


def test_the_classes_are_the_same_by_whatever_name() -> None:
    same = (
        "aiplatform_v1.JobServiceClient is JobServiceClient, "
        "aiplatform_v1.CustomJob is aiplatform_v1.types.CustomJob is CustomJob"
    )
    lines = [IMPORT, CLIENT, MESSAGE, "from google.cloud import aiplatform_v1"]
    assert told("\n".join([*lines, f"print(json.dumps([{same}]))"])) == [True, True]


def test_a_package_that_is_there_already_stays_what_it_is(whole: Imported) -> None:
    assert whole.last == [True, "module"]


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
