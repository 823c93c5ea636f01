"""How Vertex AI finds machines for a job, and what it does when one fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from launcher.job.durations import Duration
from launcher.job.model import JobModel
from launcher.job.problem import CONFLICT, DEPENDS, Problem

Strategy = Literal["spot", "standard", "flex_start"]


class Scheduling(JobModel):
    """The scheduling of the whole job; its strategy is that of every pool.

    ``scheduling: flex_start`` is short for ``scheduling: {strategy: flex_start}``.
    """

    strategy: Strategy = Field(
        "spot",
        description="spot: cheap, may be taken away; standard: on demand; "
        "flex_start: queued until all machines are there",
    )
    restart_job_on_worker_restart: bool = Field(
        False, description="Start all replicas again when one restarts; an elastic run need not"
    )
    disable_retries: bool = Field(
        False, description="Let the job fail on the first internal error; overrides the restarts"
    )
    max_wait_duration: Duration | None = Field(
        None, description="How long flex_start may wait for machines; 0s: as long as it takes"
    )

    _short: ClassVar = {"enum": ["spot", "standard", "flex_start"]}

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        return {"strategy": data} if isinstance(data, str) else data

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, dict):
            return
        if fields.get("max_wait_duration") is not None:
            strategy = fields.get("strategy", "spot")
            if strategy in ("spot", "standard"):
                yield (
                    ("max_wait_duration",),
                    DEPENDS,
                    f"belongs to flex_start, and the strategy is {strategy}; "
                    "remove it, or write strategy: flex_start",
                )
        if fields.get("disable_retries") is True and (
            fields.get("restart_job_on_worker_restart") is True
        ):
            yield (
                ("restart_job_on_worker_restart",),
                CONFLICT,
                "is overridden by disable_retries; keep one of them",
            )
