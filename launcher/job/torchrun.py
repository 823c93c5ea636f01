"""``torchrun:`` in a job file: a script or module that torchrun could run, as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    WithJsonSchema,
)

from launcher.job.durations import Duration
from launcher.job.model import JobModel, Script
from launcher.job.pool import ModuleName, Words
from launcher.job.problem import CHOICE, CONFLICT, FORM, MISSING, RANGE, TWICE, Problem, problem

TENSORBOARD = "tensorboard"  # for progress, in place of a pattern


def _sizes(sizes: list[int]) -> list[int]:
    for size in sizes:
        if size < 1:
            raise problem(RANGE, f"has {size}; write numbers of workers, at least 1")
        if sizes.count(size) > 1:
            raise problem(TWICE, f"has {size} twice; keep one")
    return sizes


def _progress(pattern: str) -> str:
    if pattern == TENSORBOARD:
        return pattern
    try:
        groups = re.compile(pattern.encode()).groupindex
    except re.error as error:
        raise problem(FORM, f"is no regular expression: {error}; mend it") from None
    if "step" not in groups:
        raise problem(
            FORM, r"has no group step; write it as in 'step (?P<step>\d+)', or tensorboard"
        )
    return pattern


def _processes(value: Any) -> int | str:
    if value in ("auto", "gpu"):
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int):
        what = f"is {str(value)[:60]!r}; write a number of processes, at least 1, or auto"
        raise problem(CHOICE, what)
    if value < 1:
        raise problem(RANGE, f"is {value}; write a number of processes, at least 1, or auto")
    return value


Processes = Annotated[
    int | str,
    PlainValidator(_processes),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"enum": ["auto", "gpu"]}]}),
]


class Torchrun(JobModel):
    """A script or module that starts anew in each world. The script alone is short."""

    script: Script | None = Field(None, description="A script, beside the job file")
    module: ModuleName | None = Field(None, description="The same as a module, as with python -m")
    args: Words = Field(default_factory=list, description="Its arguments")
    nproc_per_node: Processes = Field(
        "auto", description="Processes of a replica, where its pool does not say slots"
    )
    sizes: Annotated[list[int], Field(min_length=1), AfterValidator(_sizes)] | None = Field(
        None, description="The worlds it may run in, in workers; by default only the full one"
    )
    max_restarts: int = Field(
        3, ge=0, description="How often in a row it is tried again when it fails by itself"
    )
    grace: Duration = Field(
        "30s", validate_default=True, description="From SIGTERM to SIGKILL, if the notice allows it"
    )

    progress: Annotated[str, AfterValidator(_progress)] | None = Field(
        None,
        description="A step's line of output: step (?P<step>\\d+).*loss (?P<loss>[\\d.]+); or "
        "tensorboard, for the event files in SWELL_OUTPUT_DIR",
    )

    preload: list[ModuleName] = Field(
        default_factory=list, description="Modules to import before a world forms, besides torch"
    )

    _short: ClassVar = {"type": "string"}
    _forms: ClassVar = "a script, or a mapping of script or module, args, …"

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        return {"script": data} if isinstance(data, str) else data

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, dict):
            return
        script, module = (fields.get(name) is not None for name in ("script", "module"))
        if script and module:
            yield ("module",), CONFLICT, "stands beside script; keep one of them"
        elif not (script or module):
            yield ("script",), MISSING, "is missing; write script: FILE.py or module: NAME"

    def settings(self) -> dict[str, Any]:
        """Returns what the trainer reads of it, but for the program."""
        return {
            "max_restarts": self.max_restarts,
            "sizes": self.sizes or [],
            "grace": self.grace.total_seconds(),
            "progress": self.progress or "",
            "preload": self.preload,
        }
