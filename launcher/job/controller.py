"""``controller:`` in a job file: a small machine that looks after the run in place of a laptop.

controller: true                       # the default machine
controller: {machine: n1-standard-4, image: REGION-docker.pkg.dev/P/R/swell-controller}

Also the machines that it may be: the smallest that custom training on Vertex AI takes without a
GPU. Their prices are Compute Engine's on demand in us-central1, in USD per hour
(cloud.google.com/products/compute/pricing/general-purpose), without Vertex AI's fee.
"""

from __future__ import annotations

from datetime import timedelta
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator

from launcher.job.durations import Duration, format_duration
from launcher.job.model import JobModel
from launcher.job.pool import Image
from launcher.job.problem import RANGE, problem

CONTROLLER_MACHINES = {
    "e2-standard-4": 0.134,
    "e2-standard-8": 0.268,
    "n1-standard-4": 0.190,
    "n1-standard-8": 0.380,
}
DEFAULT_MACHINE = "e2-standard-4"
DEFAULT_IMAGE = "swell-controller"
LEAST_TIMEOUT = timedelta(seconds=30)
# Longer than it takes to find out whether a request was sent (launcher.target.SETTLE), by far.
LEAST_ON_VERTEX = timedelta(minutes=30)


def _machine(name: str) -> str:
    if name not in CONTROLLER_MACHINES:
        near = get_close_matches(name.lower()[:60], CONTROLLER_MACHINES, n=1, cutoff=0.6)
        remedy = f"did you mean {near[0]}?" if near else f"write {' or '.join(CONTROLLER_MACHINES)}"
        raise problem("SW1028", f"{name[:60]!r} is not a machine for a controller; {remedy}")
    return name


ControllerMachine = Annotated[
    str, AfterValidator(_machine), WithJsonSchema({"enum": [*CONTROLLER_MACHINES]})
]


class Controller(JobModel):
    """A CustomJob without GPUs that looks after the run. ``true`` is its short form."""

    machine: ControllerMachine = Field(DEFAULT_MACHINE, description="Its machine, on demand")
    image: Image = Field(DEFAULT_IMAGE, description="The controller image's URI")
    timeout: Duration | None = Field(
        None, description="How long one runs before another takes over (Vertex AI: 7 days)"
    )

    _short: ClassVar = {"const": True}
    _forms = "true, or a mapping with machine, image or timeout"

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        return {} if data is True else data

    @field_validator("timeout")
    @classmethod
    def _timeout_can_be_kept(cls, timeout: timedelta | None) -> timedelta | None:
        if timeout is not None and timeout < LEAST_TIMEOUT:
            raise problem(RANGE, f"is too short; write at least {format_duration(LEAST_TIMEOUT)}")
        return timeout
