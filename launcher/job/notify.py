"""``notify:`` in a job file: a webhook to tell of the end, of stockouts, stalls and more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from launcher.job.fallback import Money
from launcher.job.model import JobModel, Text, beside
from launcher.job.problem import (
    CONFLICT,
    DEPENDS,
    MISSING,
    NO_EFFECT,
    NUL,
    Problem,
    problem,
)

News = Literal[
    "end",
    "stockout",
    "failover",
    "stall",
    "straggler",
    "unattended",
    "checkpoint",
    "goodput",
    "cost",
]
EVERYTHING: list[News] = [*get_args(News)]
BOUNDS = {"goodput": "goodput_below", "cost": "cost_past"}  # news, and the field that it needs


class Notify(JobModel):
    """A webhook. Its URL is a secret, so the job says only where it is to be found."""

    url_env: (
        Annotated[str, Text(r"[A-Za-z_][A-Za-z0-9_]*", "write the name of a variable")] | None
    ) = Field(None, description="The environment variable that holds the webhook's URL")
    url_file: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="The file that holds the webhook's URL"
    )
    on: Annotated[list[News], Field(min_length=1)] = Field(
        EVERYTHING, description="What is told of"
    )
    checkpoints_missed: int = Field(
        3, ge=2, description="After so many intervals without a checkpoint that is told"
    )
    goodput_below: float | None = Field(
        None, ge=0.01, le=0.99, description="Of an hour: below it is told"
    )
    cost_past: Money | None = Field(None, description="Of all attempts, by estimate: past it")

    _forms = "a mapping with url_env or url_file"

    @field_validator("url_file")
    @classmethod
    def _file_is_beside_the_job_file(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file is None:
            return None
        if "\0" in file:
            raise problem(NUL, "holds a NUL character; remove it")
        return beside(file, info)

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, dict):
            return
        given = [name for name in ("url_env", "url_file") if fields.get(name) is not None]
        if not given:
            what = "is missing; write the name of a variable that holds the URL"
            yield ("url_env",), MISSING, what
        elif len(given) == 2:
            yield ("url_file",), CONFLICT, "stands beside url_env; keep one of them"
        on = fields.get("on")
        if not isinstance(on, list | tuple):
            return
        for news, bound in BOUNDS.items():
            if news in on and fields.get(bound) is None:
                yield ("on", list(on).index(news)), DEPENDS, f"is told by {bound}; add that"
            elif news not in on and fields.get(bound) is not None:
                yield (bound,), NO_EFFECT, f"is told as {news}; add that to on, or remove this"
