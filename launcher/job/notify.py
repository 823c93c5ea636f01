"""``notify:`` in a job file: a webhook to tell of the end, of stockouts, failovers and stalls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from launcher.job.model import JobModel, Text, beside
from launcher.job.problem import CONFLICT, MISSING, NUL, Problem, problem

News = Literal["end", "stockout", "failover", "stall"]
EVERYTHING: list[News] = ["end", "stockout", "failover", "stall"]


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
