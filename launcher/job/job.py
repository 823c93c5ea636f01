"""The job file: what the user writes, and the Python API's ``Job``.

A job is complete in ten lines; everything else has a default. Every problem is said
with its field, what is wrong and what would be right, all of them at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from launcher.job.args import Args
from launcher.job.checkpoint import Checkpoint
from launcher.job.clashes import MAX_POOLS, Written, clashes
from launcher.job.code import Code
from launcher.job.controller import Controller
from launcher.job.durations import Duration, format_duration
from launcher.job.fallback import MAX_FALLBACKS, Fallback, Limits, Resubmit
from launcher.job.fleet import Fleet
from launcher.job.machines import Regions
from launcher.job.marketfile import MarketField
from launcher.job.model import (
    DEFAULT,
    JobModel,
    Script,
    Text,
    beside,
    problems_in,
    resource,
    valid,
    whole,
)
from launcher.job.network import Network, PscInterface
from launcher.job.notify import Notify
from launcher.job.place import Place
from launcher.job.pool import Container, Environment, ModuleName, Package, Pool, with_slots
from launcher.job.problem import (
    CONFLICT,
    COUNT,
    FORM,
    NO_REPLICA,
    ORDER,
    RANGE,
    RESERVED,
    Problem,
    problem,
)
from launcher.job.scheduling import Scheduling
from launcher.job.sizes import SizeField
from launcher.job.telemetry import Telemetry
from launcher.job.torchrun import Torchrun
from launcher.job.variant import vary

TargetName = Literal["local", "vertex"]

LEAST_LEASE = timedelta(seconds=4)  # a bucket lets the claim be rewritten once a second
# So long, at least, may workers take to leave a world (trainer.coordinator.limits): a stall that is
# shorter could not be kept.
LEAST_STALL = timedelta(minutes=3)
MAX_LABELS = 62  # of 64: Swell adds two

JobName = Annotated[
    str,
    Text(
        r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?",
        "write lowercase letters, digits and -, beginning with a letter, at most 40",
    ),
]


def _labels(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > MAX_LABELS:
        raise problem(COUNT, f"has {len(labels)} labels; at most {MAX_LABELS}, Swell adds two")
    for name, value in labels.items():
        if name.startswith("swell-"):
            raise problem(RESERVED, f"{name[:60]} is a label of Swell's own; choose another name")
        if not _is_label(name) or not name[:1].isalpha():
            raise problem(
                FORM,
                f"{name[:60]!r} is not a label's name; write a lowercase letter, then at most 63 "
                "lowercase letters, digits, _ and -",
            )
        if not _is_label(value):
            raise problem(
                FORM,
                f"{value[:60]!r} is not a label's value; write at most 64 lowercase letters, "
                "digits, _ and -",
            )
    return labels


def _is_label(text: str) -> bool:
    # Letters of any script, as long as they are not capitals (aiplatform_v1, CustomJob.labels).
    return len(text) <= 64 and all(
        c in "_-" or c.isdigit() or (c.isalpha() and c == c.lower()) for c in text
    )


Labels = Annotated[dict[str, str], AfterValidator(_labels)]
TrackingName = Annotated[
    str, Text(r"[a-z0-9][a-z0-9\-]{0,127}", "write lowercase letters, digits and -, at most 128")
]


class Experiment(JobModel):
    """A Vertex AI experiment, and the run in it. Its name alone is its short form."""

    name: TrackingName
    run: TrackingName | None = None

    _short: ClassVar = {"type": "string"}

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


class Elastic(JobModel):
    """How the run rides the market: how small and large its world may be, and how patient it is."""

    min_workers: int = Field(1, ge=1)
    max_workers: int | None = Field(None, ge=1)
    start_wait: Duration = Field("60s", validate_default=True)
    hold_off: Duration = Field("1s", validate_default=True)
    heartbeat: Duration = Field("300ms", validate_default=True)
    suspicion: Duration = Field("1.5s", validate_default=True)
    hang: Duration = Field("10s", validate_default=True)
    stall: Duration = Field("10min", validate_default=True)
    lease_timeout: Duration | None = None  # 5s, or 10s where the run directory is in a bucket
    spares: int = Field(1, ge=0)
    balance: Literal["even", "speed"] = "even"  # shares of the batch: alike, or by speed
    # How many times as slow as the others a worker is that is replaced if it stays so.
    replace_stragglers: float | None = Field(None, ge=1.2, le=100)
    preflight: bool = False  # whether each machine shows what it can do before it takes part

    @field_validator("lease_timeout")
    @classmethod
    def _lease_can_be_kept(cls, timeout: timedelta | None) -> timedelta | None:
        if timeout is not None and timeout < LEAST_LEASE:
            raise problem(RANGE, f"is too short; write at least {format_duration(LEAST_LEASE)}")
        return timeout

    @field_validator("stall")
    @classmethod
    def _stall_can_be_kept(cls, stall: timedelta) -> timedelta:
        if stall < LEAST_STALL:
            raise problem(RANGE, f"is too short; write at least {format_duration(LEAST_STALL)}")
        return stall

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        low, high = whole(fields, "min_workers", 1), whole(fields, "max_workers", None)
        if low and high and low > high:
            yield ("max_workers",), ORDER, f"is {high}; write at least min_workers, {low}"
        if not isinstance(fields, Mapping) or fields.get("replace_stragglers") is None:
            return
        if fields.get("balance") == "speed":
            what = "stands beside balance: speed, which gives who is slow less to do; keep one"
            yield ("replace_stragglers",), CONFLICT, what


class Local(JobModel):
    """What only the local target reads."""

    # What a VM is; netns needs root, container podman, too.
    vm: Literal["process", "netns", "container"] = "process"
    memory: SizeField | None = None  # the most that a container uses; else its machine's own
    market: MarketField = Field(default_factory=list)


class Job(JobModel):
    """What to train, on which machines, and how elastic the run is.

    Raises pydantic's ValidationError (a ValueError) with every problem at once.
    """

    name: JobName = Field(description="Begins the ids of the job's runs")
    task: str | None = Field(None, description="module:Class, or path/to/file.py:Class")
    script: Script | None = Field(
        None, description="A script written for Elastic Horovod, beside the job file"
    )
    module: ModuleName | None = Field(None, description="The same as a module of the image")
    torchrun: Torchrun | None = Field(
        None, description="Any script that torchrun can run, as it is"
    )
    args: Args = Field(
        default_factory=dict, description="A task's keyword arguments, or a list of texts"
    )
    code: Code | None = Field(None, description="A folder that the run brings along")
    container: Container = Field(DEFAULT, validate_default=True, description="What replicas run")
    package: Package | None = Field(None, description="Python packages to run, not a container")
    env: Environment = Field(default_factory=dict, description="Variables of all replicas")
    pools: list[Pool] = Field(
        min_length=1, max_length=MAX_POOLS, description="Worker pools; the first has one replica"
    )
    fleet: Fleet = Field(
        DEFAULT, validate_default=True, description="Several CustomJobs of these pools, one world"
    )
    elastic: Elastic = Field(DEFAULT, validate_default=True)
    checkpoint: Checkpoint = Field(DEFAULT, validate_default=True)
    scheduling: Scheduling = Field(DEFAULT, validate_default=True)
    fallback: list[Fallback] = Field(
        default_factory=list, max_length=MAX_FALLBACKS, description="Where else, in order"
    )
    resubmit: Resubmit = Field(DEFAULT, validate_default=True)
    limits: Limits = Field(DEFAULT, validate_default=True)
    controller: Controller | None = Field(
        None, description="A small machine that looks after the run instead of a laptop"
    )
    timeout: Duration | None = Field(
        None, description="How long one attempt may run (Vertex AI's default is 7 days)"
    )
    audit: bool = Field(False, description="Write down which samples every step used")
    on_nonfinite: Literal["stop", "skip", "rollback"] | None = Field(
        None, description="What becomes of a step whose loss or gradients are not finite"
    )
    project: Annotated[str, Text(r"[^\s/]+", "write a project's id")] | None = Field(
        None, description="The Google Cloud project"
    )
    regions: Regions = Field(default_factory=list, description="In order of preference")
    output: Place | None = Field(
        None, description="Where run directories are made: gs://BUCKET/FOLDER"
    )
    labels: Labels = Field(default_factory=dict, description="Labels of the CustomJobs")
    service_account: (
        Annotated[
            str,
            Text(
                r"[^\s@]+@[^\s@]+\.gserviceaccount\.com",
                "write NAME@PROJECT.iam.gserviceaccount.com",
            ),
        ]
        | None
    ) = Field(None, description="Who the replicas are; NAME@PROJECT.iam.gserviceaccount.com")
    network: Network | None = Field(None, description="A peered network of yours")
    reserved_ip_ranges: list[str] = Field(
        default_factory=list, description="Names of the network's ranges to use"
    )
    psc_interface: PscInterface | None = Field(
        None, description="A Private Service Connect interface"
    )
    encryption_key: (
        Annotated[str, resource("projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY")]
        | None
    ) = Field(None, description="Encrypts what the job keeps")
    token_secret: Annotated[str, resource("projects/PROJECT/secrets/NAME")] | None = Field(
        None, description="Delivers the run's token by Secret Manager, not in the environment"
    )
    tensorboard: (
        Annotated[str, resource("projects/PROJECT/locations/REGION/tensorboards/ID")] | None
    ) = Field(None, description="Where Vertex AI shows the run's TensorBoard files")
    experiment: Experiment | None = Field(None, description="A Vertex AI experiment")
    web_access: bool = Field(False, description="Interactive shells in the replicas")
    dashboard_access: bool = Field(False, description="A dashboard served by the first replica")
    telemetry: Telemetry | None = Field(None, description="Who else is told of the run, and where")
    notify: Notify | None = Field(None, description="A webhook to tell of the run's end and more")
    local: Local = Field(DEFAULT, validate_default=True)

    @field_validator("task")
    @classmethod
    def _task_names_a_class(cls, task: str | None, info: ValidationInfo) -> str | None:
        if task is None:
            return None
        where, _, name = task.rpartition(":")
        if not where or not name.isidentifier():
            raise problem(FORM, f"is {task[:60]!r}; write module:Class or path/to/file.py:Class")
        if not where.endswith(".py"):
            if not all(part.isidentifier() for part in where.split(".")):
                raise problem(
                    FORM, f"{where[:60]!r} is not a module; write module:Class or file.py:Class"
                )
            return task
        return f"{beside(where, info)}:{name}"

    @field_validator("timeout")
    @classmethod
    def _timeout_is_some(cls, timeout: timedelta | None) -> timedelta | None:
        if timeout is not None and timeout < timedelta(seconds=1):
            raise problem(RANGE, "is too short; write at least 1s")
        return timeout

    def runtime(self, pool: Pool) -> Container | Package:
        """What the replicas of ``pool`` run."""
        return pool.package or pool.container or self.package or self.container

    def starts_agent(self, pool: Pool) -> bool:
        """Whether the replicas of ``pool`` run Swell's agent and so take part in the training."""
        return self.runtime(pool).starts_agent

    @property
    def is_fleet(self) -> bool:
        """Whether its CustomJobs are made to train beside others: the job file says ``fleet``."""
        return "fleet" in self.model_fields_set

    @property
    def slots(self) -> int:
        """How many workers there are when every replica is there."""
        return sum(pool.workers for pool in self.pools if self.starts_agent(pool))

    @property
    def max_workers(self) -> int:
        """The largest world that the run may form."""
        return self.elastic.max_workers or self.slots * self.fleet.jobs

    def replicas(self) -> list[str]:
        """The names of all replicas: ``workerpool0-0``, ``workerpool1-0``, …"""
        return [
            f"workerpool{p}-{i}" for p, pool in enumerate(self.pools) for i in range(pool.replicas)
        ]

    def anchors(self) -> Job:
        """The job that the fleet's anchors are of: the same, on demand."""
        return self.variant(Fallback(strategy="standard"))

    def variant(self, fallback: Fallback) -> Job:
        """The job that ``fallback`` stands for, without what concerns the run as a whole."""
        return type(self).model_validate(self._varied(fallback))

    def _varied(self, fallback: Fallback) -> dict[str, Any]:
        workers = [pool.workers if self.starts_agent(pool) else 0 for pool in self.pools]
        most = math.ceil(self.max_workers / self.fleet.jobs)
        return vary(self.to_dict(), fallback, workers, most)

    def to_dict(self) -> dict[str, Any]:
        """Returns the job as plain JSON, without what was left at its default."""
        return self.model_dump(mode="json", exclude_unset=True)

    @property
    def sha256(self) -> str:
        """The job's checksum, which its checkpoints carry."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """Returns what the trainer reads from run.json: plain JSON, durations in seconds."""
        lease = self.elastic.lease_timeout
        return {
            "program": self._program(),
            **({"torchrun": self.torchrun.settings()} if self.torchrun else {}),
            "checkpoint": self.checkpoint.settings(),
            "min_workers": self.elastic.min_workers,
            "max_workers": self.max_workers,
            "start_wait": self.elastic.start_wait.total_seconds(),
            "hold_off": self.elastic.hold_off.total_seconds(),
            "heartbeat": self.elastic.heartbeat.total_seconds(),
            "suspicion": self.elastic.suspicion.total_seconds(),
            "hang": self.elastic.hang.total_seconds(),
            "stall": self.elastic.stall.total_seconds(),
            "lease_timeout": lease.total_seconds() if lease else None,
            "spares": self.elastic.spares,
            "balance": self.elastic.balance,
            "job_sha256": self.sha256,
            "audit": self.audit,
            # Older images do not know it: they run the jobs that do not ask for it.
            **({"on_nonfinite": self.on_nonfinite} if self.on_nonfinite else {}),
            **({"preflight": True} if self.elastic.preflight else {}),
            **({"replace_stragglers": slow} if (slow := self.elastic.replace_stragglers) else {}),
            **({"telemetry": told} if (told := self._telemetry()) else {}),
            **({"fleet": self.fleet.jobs} if self.is_fleet else {}),
        }

    def _telemetry(self) -> dict[str, Any]:
        shown = {"required": True} if self.tensorboard or self.experiment else {}
        return shown | (self.telemetry.settings() if self.telemetry else {})

    def _program(self) -> dict[str, Any]:
        own = self.torchrun or self
        if own.script or own.module:
            name = "script" if own.script else "module"
            program = self._sent(own.script) if own.script else own.module
            return {name: program, "args": list(own.args)}
        where, colon, class_name = (self.task or "").rpartition(":")
        if where.endswith(".py"):
            where = self._sent(where)
        return {"task": f"{where}{colon}{class_name}", "task_args": self.args}

    @property
    def sends_package(self) -> bool:
        """Whether the code is sent as a Python package, too."""
        return any(map(self.takes_code_as_package, self.pools))

    def _sent(self, file: str) -> str:
        """What the VMs call a file of this machine."""
        return self.code.inside(file) or file if self.code else file

    def takes_code_as_package(self, pool: Pool) -> bool:
        """Whether the code reaches the replicas of ``pool`` as a Python package: no agent does."""
        runtime = self.runtime(pool)
        return self.code is not None and isinstance(runtime, Package) and not runtime.starts_agent

    def files(self) -> list[tuple[str, str]]:
        """The fields that name a file on this machine, and its path."""
        found = [("script", self.script)] if self.script else []
        if self.torchrun and self.torchrun.script:
            found.append(("torchrun", self.torchrun.script))
        if self.task and ".py:" in self.task:
            found.append(("task", self.task.rpartition(":")[0]))
        return found

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        """Returns the job in which nproc_per_node is the slots of the pools that have none."""
        torchrun = data.get("torchrun") if isinstance(data, Mapping) else None
        each = _field(torchrun, "nproc_per_node")
        pools = data.get("pools") if isinstance(data, Mapping) else None
        if type(each) is not int or each < 1 or not isinstance(pools, list):
            return data
        return {**data, "pools": [with_slots(pool, each) for pool in pools]}

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, Mapping):
            return
        written = Written(fields)
        yield from clashes(written)
        yield from _strangers(written)
        if written.given("fallback"):
            yield from cls._impossible_fallbacks(fields)

    @classmethod
    def _impossible_fallbacks(cls, fields: Mapping[str, Any]) -> Iterator[Problem]:
        """Yields what is wrong with the jobs that the fallbacks stand for."""
        fallbacks = fields["fallback"]
        job = valid(cls, {name: value for name, value in fields.items() if name != "fallback"})
        if job is None or not isinstance(fallbacks, list) or len(fallbacks) > MAX_FALLBACKS:
            return  # that is said already
        for index, given in enumerate(fallbacks):
            fallback = valid(Fallback, given)
            if fallback is None:
                continue
            try:
                cls.model_validate(job._varied(fallback))
            except ValidationError as error:
                found = [_to_blame(fallback, *one) for one in problems_in(error)]
                for loc, id, what in dict.fromkeys(found):
                    yield ("fallback", index, *loc), id, what


def _strangers(written: Written) -> Iterator[Problem]:
    """Yields the replicas in the market's incidents that no pool has."""
    local, pools = written.given("local"), written.whole_pools
    market = _field(local, "market")
    where: tuple[str, ...] = ("local", "market")
    if not isinstance(market, list):
        where, market = (*where, "incidents"), _field(market, "incidents")
    if pools is None or not isinstance(market, list):
        return
    counts = [pool.replicas for pool in pools]
    for index, incident in enumerate(market):
        for kind in ("preempt", "vanish"):
            name = _field(incident, kind)
            if isinstance(name, str) and (remedy := _stranger(name.rpartition("/")[2], counts)):
                what = f"no pool has {name[:60]!r}; {remedy}"
                yield (*where, index, kind), NO_REPLICA, what


def _to_blame(fallback: Fallback, loc: tuple[int | str, ...], id: str, what: str) -> Problem:
    """Returns a problem of a fallback's job as one of the fallback's field that it comes from."""
    if loc[:1] == ("pools",) and (fallback.machine or fallback.pools):
        return (("machine",) if fallback.machine else loc), id, what
    if loc[:1] == ("regions",) and fallback.regions:
        return loc, id, what
    if loc[:1] == ("scheduling",):
        return ("strategy",), id, what
    return (), id, f"{'.'.join(map(str, loc))} {what}"


def _field(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, dict) else getattr(part, name, None)


def _stranger(replica: str, counts: list[int]) -> str | None:
    """Returns which replica may have been meant, or None when it is there."""
    match = re.fullmatch(r"workerpool([0-9])-(0|[1-9][0-9]{0,8})", replica)
    if match is None:
        return "write one like workerpool0-0"
    pool, index = int(match.group(1)), int(match.group(2))
    if pool >= len(counts):
        return f"the last pool is workerpool{len(counts) - 1}"
    last = counts[pool] - 1
    return None if index <= last else f"did you mean workerpool{pool}-{last}?"
