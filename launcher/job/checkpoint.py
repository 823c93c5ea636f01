"""What a job file says of checkpoints: how often, how many, and what a new run begins from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from launcher.job.durations import Moment, Steps, format_moment, parse_moment
from launcher.job.machines import Region
from launcher.job.model import JobModel
from launcher.job.place import Place
from launcher.job.problem import DEPENDS, FORM, RANGE, Problem, problem
from trainer.rundir.names import START_FILES, START_PARTS, WEIGHTS

_START = re.compile(rf"/checkpoints/step-\d+/?(#({'|'.join(START_PARTS)}))?\Z")
# What another program has written: a file, or a folder that is said to have weights.
_FILE = re.compile(rf"({'|'.join(map(re.escape, START_FILES))})(#{WEIGHTS})?\Z")
_FOLDER = re.compile(rf"[^#]+#{WEIGHTS}\Z")


def _some(moment: timedelta | Steps) -> timedelta | Steps:
    if moment in (Steps(0), timedelta()):
        least = "1 step" if isinstance(moment, Steps) else "1s"
        raise problem(RANGE, f"is {format_moment(moment)}, which is never; write at least {least}")
    return moment


Interval = Annotated[Moment, AfterValidator(_some)]


class Checkpoint(JobModel):
    """How often a checkpoint is written, and how many of them are kept."""

    every: Interval = Field("30s", validate_default=True)  # "10min", or "500 steps"
    keep: int = Field(2, ge=1)  # the newest
    keep_every: Interval | None = None  # besides, those at multiples of so many steps
    keep_best: str = ""  # besides, the one with the highest value of a metric; "-loss": the lowest
    # A checkpoint's URL; with #weights, or #weights,optimizer, a part of it. Or of weights.
    start_from: str | None = None
    override: dict[str, float] = Field(
        default_factory=dict,
        description="Settings of the optimizers that count more than those in start_from",
    )
    rename: dict[str, str] = Field(
        default_factory=dict,
        description="Names of tensors in the weights of start_from, and the model's; * is anything",
    )
    fresh: list[str] = Field(
        default_factory=list,
        description="What these weights lack, and begins as the program makes it",
    )
    buckets: dict[Region, Place] = Field(
        default_factory=dict,
        description="By region: where the attempts there write theirs, gs://BUCKET/FOLDER",
    )

    def settings(self) -> dict[str, Any]:
        """Returns what the trainer reads of it."""
        every, keep_every = self.every, self.keep_every
        return {
            "every": 0.0 if isinstance(every, Steps) else every.total_seconds(),
            "every_steps": every.count if isinstance(every, Steps) else 0,
            "keep": self.keep,
            "keep_every": keep_every.count if isinstance(keep_every, Steps) else 0,
            "keep_best": self.keep_best,
            "start_from": self.start_from or "",
            # Older images do not know it: they run the jobs that do not ask for it.
            **({"override": self.override} if self.override else {}),
            **({"rename": self.rename} if self.rename else {}),
            **({"fresh": self.fresh} if self.fresh else {}),
        }

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, dict):
            return
        if fields.get("keep_every") is not None and not _counts_steps(fields["keep_every"]):
            what = "is not a number of steps; write for example 10000 steps"
            yield ("keep_every",), FORM, what
        start = fields.get("start_from")
        if isinstance(start, str) and not _is_start(start):
            where, _, parts = start.partition("#")
            what = (
                "is not a checkpoint; write RUN-DIRECTORY/checkpoints/step-N; or weights: a file "
                f"({', '.join(START_FILES)}), or FOLDER#{WEIGHTS}"
            )
            if parts and _is_start(where):
                what = f"has #{parts[:40]}; write {' or '.join(f'#{one}' for one in START_PARTS)}"
            yield ("start_from",), FORM, what
        override = fields.get("override")
        whole = isinstance(start, str) and "#" not in start and not _is_foreign(start)
        if isinstance(override, dict) and not whole:
            for name in override:
                what = "belongs to a start_from without #; add that or remove this"
                yield ("override", name), DEPENDS, what
        for name in ("rename", "fresh"):
            if fields.get(name) and not (isinstance(start, str) and _is_foreign(start)):
                what = "belongs to a start_from of weights; add that or remove this"
                yield (name,), DEPENDS, what


def _is_start(url: str) -> bool:
    return _START.search(url) is not None or _is_foreign(url)


def _is_foreign(url: str) -> bool:
    """Whether it names weights that another program has written."""
    a_folder = _FOLDER.match(url) is not None and "/step-" not in url
    return _FILE.search(url) is not None or a_folder


def _counts_steps(value: object) -> bool:
    try:
        return isinstance(parse_moment(value), Steps)
    except ValueError:
        return True  # it is said to be wrong already
