"""What the emulator's Spot market is to do, as users write it: in a job file or one of its own.

Either a list of incidents, or a whole market::

    speed: 60                    # a minute of the market passes in a second
    notice: 30s                  # or none
    survivors: keep              # or restart, or fail: what becomes of a job's other VMs
    retry: 5min                  # how often a job without any VM is tried again
    isolated: false              # whether the VMs of one job reach those of no other
    seed: 7                      # decides which VMs are taken
    capacity:
      - {machine: a2-highgpu-1g, region: us-central1, vms: {0s: 8, 10min: 3, 1h: 8}}
      - {machine: a2-highgpu-8g, trace: gcp-a100.txt}     # in every region
    incidents:
      - {at: 150 steps, preempt: workerpool1-0, back: 350 steps}

All times but ``notice`` are the market's. ``capacity`` limits Spot VMs (and Flex-start ones,
which are never taken) over all jobs; what it does not mention is never short.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationInfo,
    field_validator,
)

from launcher.job.durations import (
    Duration,
    Moment,
    Steps,
    format_duration,
    parse_duration,
    parse_moment,
)
from launcher.job.machines import LOCAL, known_region
from launcher.job.model import JobModel
from launcher.job.pool import MachineName
from launcher.job.problem import DEPENDS, FORM, MISSING, ORDER, RANGE, TWICE, Problem, problem
from trainer.rundir.usererror import Unusable

MOST_VMS = 100_000  # of one machine type; more is a slip of the finger


def _notice(value: Any) -> timedelta | None:
    if value in (None, "none"):
        return None
    try:
        return parse_duration(value)
    except Unusable as error:
        raise problem(error.id, f"{error}; or write none") from None


Notice = Annotated[
    timedelta | None,
    PlainValidator(_notice, json_schema_input_type=str),
    PlainSerializer(lambda it: "none" if it is None else format_duration(it), return_type=str),
]


def _replica(name: str) -> str:
    if not re.fullmatch(r"(\d{1,4}/)?workerpool[0-3]-\d{1,4}", name):
        raise problem(FORM, f"{name[:60]!r} is not a replica; write one such as workerpool1-0")
    return name


ReplicaName = Annotated[str, AfterValidator(_replica)]


class Incident(JobModel):
    """One thing that the simulated Spot market does to one replica."""

    at: Moment
    preempt: ReplicaName | None = None  # with notice
    vanish: ReplicaName | None = None  # without
    notice: Duration | None = None
    back: Moment | None = None

    @property
    def replica(self) -> str:
        """The replica that the incident is about."""
        return self.preempt or self.vanish or ""

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, dict):
            return
        if (fields.get("preempt") is None) == (fields.get("vanish") is None):
            yield (), MISSING, "needs one of preempt and vanish; write preempt: workerpool1-0"
        if fields.get("notice") is not None and fields.get("vanish") is not None:
            yield ("notice",), DEPENDS, "belongs to preempt; vanish comes without notice"
        at, back = (_steps(fields.get(name)) for name in ("at", "back"))
        if at and back and back.count <= at.count:
            yield ("back",), ORDER, f"is {back}, and it goes at {at}; write more than that"


def _steps(value: Any) -> Steps | None:
    try:
        moment = parse_moment(value)
    except Unusable:
        return None  # that is said already
    return moment if isinstance(moment, Steps) else None


def _is_start(moment: Any) -> bool:
    try:
        return not parse_duration(moment)
    except ValueError:
        return True  # that is said already


def _region(name: str) -> str:
    return name if name == LOCAL else known_region(name)


Count = Annotated[int, Field(ge=0, le=MOST_VMS)]


class Capacity(JobModel):
    """How many VMs of one machine type there are over time, in one region or in each."""

    machine: MachineName
    region: Annotated[str, AfterValidator(_region)] | None = None
    vms: dict[Duration, Count] | None = Field(None, min_length=1)
    trace: str | None = Field(None, min_length=1)

    @field_validator("trace")
    @classmethod
    def _trace_is_beside_the_file(cls, trace: str | None, info: ValidationInfo) -> str | None:
        folder = Path((info.context or {}).get("folder", "."))
        return None if trace is None else str((folder / trace).resolve())

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, dict):
            return
        vms = fields.get("vms")
        if (vms is None) == (fields.get("trace") is None):
            yield (), MISSING, "needs one of vms and trace; write vms: {0s: 8, 10min: 3}"
        if isinstance(vms, dict) and vms and not any(map(_is_start, vms)):
            yield ("vms",), MISSING, "does not say how it begins; write {0s: 8, …}"


class Market(JobModel):
    """The emulated Spot market."""

    speed: float = Field(1.0, gt=0, le=1e6)
    notice: Notice = Field("30s", validate_default=True)
    survivors: Literal["keep", "restart", "fail"] = "keep"
    retry: Duration = Field("5min", validate_default=True)
    isolated: bool = False
    seed: int = 0
    capacity: list[Capacity] = Field(default_factory=list)
    incidents: list[Incident] = Field(default_factory=list)

    @field_validator("retry")
    @classmethod
    def _retry_takes_time(cls, retry: timedelta) -> timedelta:
        if not retry:
            raise problem(RANGE, "is 0; write at least 1s")
        return retry

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        entries = fields.get("capacity") if isinstance(fields, dict) else None
        seen: set[tuple[Any, Any]] = set()
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            if not isinstance(entry, Capacity):
                continue
            if (entry.machine, entry.region) in seen:
                what = "is there already; write one entry per machine, region"
                yield ("capacity", index), TWICE, what
            seen.add((entry.machine, entry.region))


def _either_form(value: Any, info: ValidationInfo) -> list[Incident] | Market:
    if isinstance(value, list):
        return TypeAdapter(list[Incident]).validate_python(value, context=info.context)
    return Market.model_validate(value, context=info.context)


def whole_market(value: list[Incident] | Market) -> Market:
    """Returns the market that either form means."""
    return Market(incidents=value) if isinstance(value, list) else value


def not_come(market: Market, step: int, seconds: float) -> Iterator[str]:
    """Yields a line if the market was to do something after the end of a run, and so has not.

    Args:
        market: the run's.
        step: the last that the run has completed.
        seconds: how long it took, from its launch on.
    """
    passed = timedelta(seconds=seconds) * market.speed
    late = [
        one
        for one in market.incidents
        if (one.at.count > step if isinstance(one.at, Steps) else one.at > passed)
    ]
    if late:
        first, more = late[0], len(late) - 1
        at = first.at if isinstance(first.at, Steps) else format_duration(first.at)
        also = f", and {more} more" if more else ""
        yield (
            f"local.market: {first.replica} was to be taken away at {at}{also}; the run has ended "
            f"before that, at step {step:,}: write less, or train longer"
        )


def market_to_json(value: list[Incident] | Market) -> Any:
    """Returns plain JSON that reads as the same market."""
    if isinstance(value, list):
        return [incident.model_dump(mode="json", exclude_unset=True) for incident in value]
    return value.model_dump(mode="json", exclude_unset=True)


# A market, or just the list of its incidents.
MarketField = Annotated[
    list[Incident] | Market,
    PlainValidator(_either_form, json_schema_input_type=list[Incident] | Market),
    PlainSerializer(market_to_json),
]
