"""Where else a run may run, how patiently it is sent again, and what it may cost.

regions: [us-central1, us-east4]
fallback:                                  # after those, in this order
  - {machine: a2-ultragpu-8g}              # in the same regions
  - {strategy: standard, after: 2h}        # when there has been no Spot machine for so long
resubmit: {pause: 1min, longest: 30min, patience: 1h, back: 30min}
limits: {cost: 500 USD, time: 3d, attempts: 20, deadline: 2026-12-24T08:00+01:00}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from launcher.job.durations import Duration, format_duration
from launcher.job.machines import Regions
from launcher.job.model import JobModel
from launcher.job.pool import MachineName, Pool
from launcher.job.problem import CONFLICT, FORM, NO_EFFECT, ORDER, RANGE, UNIT, Problem, problem
from launcher.job.scheduling import Strategy

MAX_FALLBACKS = 20
LEAST_BACK = timedelta(seconds=1)
MAX_ATTEMPTS = 9999  # their records are numbered with four digits
_MONEY = re.compile(r"(?:\$\s*)?(\d{1,9}(?:\.\d{1,2})?)(\s*USD)?")


@dataclass(frozen=True)
class Dollars:
    """An amount of US dollars."""

    usd: float

    def __str__(self) -> str:
        return f"{self.usd:.2f}".removesuffix(".00") + " USD"


def _dollars(value: Any) -> Dollars:
    if isinstance(value, Dollars):
        return value
    text = str(value).strip()
    match = None if isinstance(value, bool) else _MONEY.fullmatch(text)
    if match and (match.group(2) or text.startswith("$")):
        return Dollars(float(match.group(1)))
    if match:
        raise problem(UNIT, f"needs its unit; write {text} USD")
    raise problem(FORM, f"is {text[:60]!r}; write an amount like 500 USD")


def _moment(value: Any) -> datetime:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(_iso(value))
    except ValueError:
        raise problem(
            FORM, f"is {str(value)[:60]!r}; write a time of day like 2026-12-24T08:00+01:00"
        ) from None
    if moment.tzinfo is None:
        remedy = f"write {moment.isoformat(timespec='minutes')}+00:00"
        raise problem(UNIT, f"needs its time zone; {remedy}")
    return moment


def _iso(value: Any) -> str:
    # Python 3.10 reads no Z.
    text = str(value).strip()
    return f"{text[:-1]}+00:00" if text.endswith(("Z", "z")) else text


Money = Annotated[
    Dollars,
    PlainValidator(_dollars),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\s*(\$\s*)?[0-9]+(\.[0-9]{1,2})?(\s*USD)?\s*$",
            "examples": ["500 USD"],
        }
    ),
]
Deadline = Annotated[
    datetime,
    PlainValidator(_moment),
    PlainSerializer(datetime.isoformat, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["2026-12-24T08:00+01:00"]}),
]


class Fallback(JobModel):
    """Another way to run: what it leaves out is as the job has it."""

    regions: Regions | None = Field(None, description="In order; by default the job's")
    machine: MachineName | None = Field(
        None, description="In place of the pools' machines; as many replicas as give the workers"
    )
    pools: list[Pool] | None = Field(None, min_length=1, description="In place of the job's pools")
    strategy: Strategy | None = Field(None, description="In place of the job's")
    after: Duration = Field(
        "0s", validate_default=True, description="Only when nothing has run for so long"
    )

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, dict):
            return
        if fields.get("pools") is not None and fields.get("machine") is not None:
            yield ("machine",), CONFLICT, "stands beside pools; keep one of them"
        if all(fields.get(name) is None for name in ("regions", "machine", "pools", "strategy")):
            yield (), NO_EFFECT, "changes nothing; write regions, machine, pools or strategy"


class Resubmit(JobModel):
    """How long the run waits before it tries again what failed."""

    pause: Duration = Field(
        "1min", validate_default=True, description="After the first failure; then twice as long"
    )
    longest: Duration = Field("30min", validate_default=True, description="No pause is longer")
    patience: Duration | None = Field(
        None, description="An attempt that has no machines for so long is given up for another"
    )
    back: Duration | None = Field(
        "30min",
        validate_default=True,
        description="How often a fleet that trains on demand tries Spot beside it; null for never",
    )

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, dict):
            return
        if isinstance(back := fields.get("back"), timedelta) and back < LEAST_BACK:
            what = f"is too short; write at least {format_duration(LEAST_BACK)}, or null for never"
            yield ("back",), RANGE, what
        pause, longest = fields.get("pause"), fields.get("longest")
        if isinstance(pause, timedelta) and isinstance(longest, timedelta) and pause > longest:
            yield ("longest",), ORDER, "is shorter than pause; write at least as much as that"


class Limits(JobModel):
    """What the run may take; the first limit that is reached ends it, with a checkpoint."""

    cost: Money | None = Field(None, description="Of all attempts, by the estimates of swell plan")
    time: Duration | None = Field(None, description="For which all attempts together may run")
    attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] | None = Field(
        None, description="CustomJobs that are submitted"
    )
    deadline: Deadline | None = Field(None, description="When the run is to be over")
