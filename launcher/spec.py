"""The job file: what the user writes, and the Python API's ``Job``.

A job is complete in ten lines; everything else has a default. Every problem is said
with its field, what is wrong and what would be right, all of them at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, ValidationInfo, field_validator

from launcher.durations import Duration
from launcher.machines import MACHINES, Machine, nearest
from launcher.marketfile import Incident, Market, MarketField
from launcher.part import Part, Problem, problem, valid, whole

Target = Literal["local", "vertex"]

DEFAULT_IMAGE = "swell-trainer"
MAX_POOLS = 4
_RESERVED_ENV = ("SWELL_", "AIP_", "CLOUD_ML_", "CLUSTER_SPEC", "GCE_METADATA_")


def _job_name(name: str) -> str:
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise problem(
            f"is {name[:60]!r}; write lowercase letters, digits and -, "
            "beginning with a letter, at most 40"
        )
    return name


def _machine_name(name: str) -> str:
    if name not in MACHINES:
        near = nearest(name)
        remedy = f"did you mean {near}?" if near else f"known are {', '.join(MACHINES)}"
        raise problem(f"{name[:60]!r} is not a machine of the series A2 or A3; {remedy}")
    return name


def _environment(env: dict[str, str]) -> dict[str, str]:
    for name in env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise problem(f"{name[:60]!r} is not a variable name; write letters, digits and _")
        if name.startswith(_RESERVED_ENV):
            raise problem(f"{name} is set by Swell or Vertex AI; choose another name")
    return env


Environment = Annotated[dict[str, str], AfterValidator(_environment)]


class Container(Part):
    """What a replica runs: an image, and a command when it is not Swell's agent."""

    image: str = Field(DEFAULT_IMAGE, min_length=1)
    command: list[str] = Field(default_factory=list)
    args: list[str] = Field(default_factory=list)


class Pool(Part):
    """One worker pool: ``replicas`` VMs of one machine type."""

    machine: Annotated[str, AfterValidator(_machine_name)]
    replicas: int = Field(1, ge=1)
    slots: int | None = Field(None, ge=1)  # workers of a replica; by default one per GPU
    env: Environment = Field(default_factory=dict)

    @property
    def machine_type(self) -> Machine:
        """The catalogue's entry of the pool's machine."""
        return MACHINES[self.machine]

    @property
    def workers(self) -> int:
        """How many workers the pool has when all its replicas are there."""
        return self.replicas * (self.slots or self.machine_type.gpus)


class Elastic(Part):
    """How the run rides the market: how small and large its world may be, and how patient it is."""

    min_workers: int = Field(1, ge=1)
    max_workers: int | None = Field(None, ge=1)
    start_wait: Duration = Field("60s", validate_default=True)
    hold_off: Duration = Field("1s", validate_default=True)
    heartbeat: Duration = Field("500ms", validate_default=True)
    suspicion: Duration = Field("2s", validate_default=True)
    spares: int = Field(1, ge=0)

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        low, high = whole(fields, "min_workers", 1), whole(fields, "max_workers", None)
        if low and high and low > high:
            yield ("max_workers",), f"is {high}; write at least min_workers, {low}"


class Checkpoint(Part):
    """How often a checkpoint is written, and how many of them are kept."""

    every: Duration = Field("30s", validate_default=True)
    keep: int = Field(2, ge=1)


class Local(Part):
    """What only the local target reads."""

    market: MarketField = Field(default_factory=list)


class Job(Part):
    """What to train, on which machines, and how elastic the run is.

    Raises pydantic's ValidationError (a ValueError) with every problem at once.
    """

    name: Annotated[str, AfterValidator(_job_name)]
    task: str | None = None  # "module:Class" or "path/to/file.py:Class"
    args: dict[str, JsonValue] = Field(default_factory=dict)
    container: Container = Field(default_factory=Container)
    env: Environment = Field(default_factory=dict)
    pools: list[Pool] = Field(min_length=1, max_length=MAX_POOLS)
    elastic: Elastic = Field(default_factory=Elastic)
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    audit: bool = False
    project: str | None = None
    regions: list[str] = Field(default_factory=list)  # in order of preference
    output: str | None = None  # where run directories are made: gs://bucket/folder
    timeout: Duration | None = None
    local: Local = Field(default_factory=Local)

    @field_validator("task")
    @classmethod
    def _task_names_a_class(cls, task: str | None, info: ValidationInfo) -> str | None:
        if task is None:
            return None
        where, _, name = task.rpartition(":")
        if not where or not name.isidentifier():
            raise problem(f"is {task[:60]!r}; write module:Class or path/to/file.py:Class")
        if not where.endswith(".py"):
            if not all(part.isidentifier() for part in where.split(".")):
                raise problem(
                    f"{where[:60]!r} is not a module; write module:Class or file.py:Class"
                )
            return task
        # A file is meant relative to the job file; the VMs start elsewhere.
        folder = Path((info.context or {}).get("folder", "."))
        return f"{(folder / where).resolve()}:{name}"

    @property
    def slots(self) -> int:
        """How many workers there are when every replica is there."""
        return sum(pool.workers for pool in self.pools)

    @property
    def max_workers(self) -> int:
        """The largest world that the run may form."""
        return self.elastic.max_workers or self.slots

    def replicas(self) -> list[str]:
        """The names of all replicas: ``workerpool0-0``, ``workerpool1-0``, …"""
        return _replica_names(self.pools)

    def to_dict(self) -> dict[str, Any]:
        """Returns the job as plain JSON, without what was left at its default."""
        return self.model_dump(mode="json", exclude_unset=True)

    def settings(self) -> dict[str, Any]:
        """Returns what the trainer reads from run.json: plain JSON, durations in seconds."""
        return {
            "task": self.task,
            "task_args": self.args,
            "min_workers": self.elastic.min_workers,
            "max_workers": self.max_workers,
            "start_wait": self.elastic.start_wait.total_seconds(),
            "hold_off": self.elastic.hold_off.total_seconds(),
            "heartbeat": self.elastic.heartbeat.total_seconds(),
            "suspicion": self.elastic.suspicion.total_seconds(),
            "spares": self.elastic.spares,
            "checkpoint_every": self.checkpoint.every.total_seconds(),
            "checkpoint_keep": self.checkpoint.keep,
            "audit": self.audit,
        }

    def problems_on(self, target: Target) -> list[Problem]:
        """Returns what keeps this job from running on ``target``."""
        file = self.task.rpartition(":")[0] if self.task and ".py:" in self.task else None
        if target == "local":
            if file and not Path(file).is_file():
                return [(("task",), f"there is no file {file}; name one that exists")]
            return []
        found: list[Problem] = []
        if file:
            found.append(
                (("task",), "is a local file; put it into the image and write module:Class")
            )
        if not self.project:
            found.append((("project",), "is missing; Vertex AI needs your Google Cloud project"))
        if not self.regions:
            found.append((("regions",), "is missing; write for example [us-central1]"))
        if not (self.output or "").startswith("gs://"):
            found.append((("output",), "is missing; write a regional bucket's gs://BUCKET/FOLDER"))
        if self.container.image == DEFAULT_IMAGE:
            found.append(
                (("container", "image"), "is missing; write where your trainer image was pushed")
            )
        return found

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, dict):
            return
        command = valid(Container, fields.get("container", Container()))
        if fields.get("task") is None and command and not command.command:
            yield ("task",), "is missing; write task: module:Class, or a container with a command"
        given = fields.get("pools")
        pools = [valid(Pool, pool) for pool in given] if isinstance(given, list) else []
        if pools and pools[0] and pools[0].replicas != 1:
            yield (
                ("pools", 0, "replicas"),
                f"is {pools[0].replicas}; the first pool has exactly 1, put the others in a second",
            )
        if not pools or None in pools:
            return
        slots = sum(pool.workers for pool in pools)
        elastic = fields.get("elastic", {})
        for name in ("min_workers", "max_workers"):
            count = whole(elastic, name, None)
            if count and count > slots:
                yield (
                    ("elastic", name),
                    f"is {count}; the pools have {slots} slots, write at most {slots}",
                )
        yield from _strangers(fields.get("local"), _replica_names(pools))


def _strangers(local: Any, replicas: list[str]) -> Iterator[Problem]:
    """Yields the replicas in the market's incidents that no pool has."""
    market = local.get("market") if isinstance(local, dict) else getattr(local, "market", None)
    where: tuple[str, ...] = ("local", "market")
    listed: Any = market
    if isinstance(market, Market | dict):
        where = (*where, "incidents")
        listed = market.incidents if isinstance(market, Market) else market.get("incidents")
    for index, incident in enumerate(listed if isinstance(listed, list) else []):
        read = incident if isinstance(incident, Incident) else valid(Incident, incident)
        if read and read.replica not in replicas:
            near = get_close_matches(read.replica, replicas, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(replicas[:8])}"
            kind = "preempt" if read.preempt else "vanish"
            yield (*where, index, kind), f"no pool has {read.replica!r}; {remedy}"


def _replica_names(pools: list[Pool]) -> list[str]:
    return [f"workerpool{p}-{i}" for p, pool in enumerate(pools) for i in range(pool.replicas)]
