"""A run as several CustomJobs at a time, whose workers form one world.

fleet: 8                     # up to eight CustomJobs of these pools
fleet: {jobs: 8, anchor: 1}  # one of them on demand: it is taken first, and kept
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from launcher.job.model import JobModel
from launcher.job.problem import ORDER, Problem

MAX_JOBS = 64


class Fleet(JobModel):
    """How many CustomJobs the run wants alive. Their number alone is its short form."""

    jobs: int = Field(1, ge=1, le=MAX_JOBS, description="CustomJobs at a time")
    anchor: int = Field(0, ge=0, description="How many of them on demand, taken first and kept")
    across_regions: bool = Field(
        False, description="Whether jobs of different regions may form one world"
    )

    _short: ClassVar = {"type": "integer", "minimum": 1, "maximum": MAX_JOBS}

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        return {"jobs": data} if type(data) is int else data

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, dict):
            return
        jobs, anchor = fields.get("jobs", 1), fields.get("anchor", 0)
        if type(jobs) is int and type(anchor) is int and anchor > jobs >= 1:
            yield ("anchor",), ORDER, f"is {anchor}, and there are {jobs} jobs; write at most that"
