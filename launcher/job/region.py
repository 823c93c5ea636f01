"""The regions of a job: those that have A2 or A3 machines."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from launcher.job.machines import REGIONS, unknown_region
from launcher.job.part import problem


def _region(name: str) -> str:
    if name not in REGIONS:
        raise problem(unknown_region(name))
    return name


Region = Annotated[str, AfterValidator(_region), WithJsonSchema({"enum": REGIONS})]
Regions = Annotated[
    list[Region],
    Field(max_length=len(REGIONS)),
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given,
        json_schema_input_type=list[Region] | Region,
    ),
]
