"""CustomJob as JSON on the wire: what the API accepts, what the emulator keeps, what it answers.

A request may come from Google's client (enums as integers, int64 as strings, empty
pools) or from curl (enums as names). Both become one normal form: camelCase keys,
enum names, int64 as strings, nothing unset. Answers are encoded from that form.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Any

from launcher.emulator.resources import limits
from launcher.emulator.resources.wire import (
    ANSWERED,
    BOOL,
    DURATION,
    INT32,
    INT64,
    STRING,
    STRINGS,
    Enumeration,
    Repeated,
    StringMap,
    message,
)
from launcher.job.controllerjob import ENV_TRUST
from launcher.job.customjob import CONTROLLER_LABEL
from trainer.rundir.names import ENV_TOKEN

Json = dict[str, Any]

REDACTED = "(secret)"


class JobState(IntEnum):
    """The states of a CustomJob, with their numbers on the wire."""

    QUEUED = 1
    PENDING = 2
    RUNNING = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLING = 6
    CANCELLED = 7
    PAUSED = 8
    EXPIRED = 9
    UPDATING = 10
    PARTIALLY_SUCCEEDED = 11

    @property
    def wire_name(self) -> str:
        """The name in JSON, such as ``JOB_STATE_RUNNING``."""
        return f"JOB_STATE_{self.name}"

    @property
    def terminal(self) -> bool:
        """Whether a job in this state never changes again."""
        return self in TERMINAL


TERMINAL = frozenset(
    {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.EXPIRED,
        JobState.PARTIALLY_SUCCEEDED,
    }
)


def state_of(job: Json) -> JobState:
    """The state of a job in the normal form."""
    return JobState[str(job["state"]).removeprefix("JOB_STATE_")]


ACCELERATORS = Enumeration(
    {
        "ACCELERATOR_TYPE_UNSPECIFIED": 0,
        "NVIDIA_TESLA_K80": 1,
        "NVIDIA_TESLA_P100": 2,
        "NVIDIA_TESLA_V100": 3,
        "NVIDIA_TESLA_P4": 4,
        "NVIDIA_TESLA_T4": 5,
        "TPU_V2": 6,
        "TPU_V3": 7,
        "NVIDIA_TESLA_A100": 8,
        "NVIDIA_A100_80GB": 9,
        "TPU_V4_POD": 10,
        "NVIDIA_L4": 11,
        "TPU_V5_LITEPOD": 12,
        "NVIDIA_H100_80GB": 13,
        "NVIDIA_H100_MEGA_80GB": 14,
        "NVIDIA_H200_141GB": 15,
        "NVIDIA_B200": 16,
        "NVIDIA_GB200": 17,
        "NVIDIA_RTX_PRO_6000": 18,
    }
)
STRATEGIES = Enumeration(
    {
        "STRATEGY_UNSPECIFIED": 0,
        "ON_DEMAND": 1,
        "LOW_COST": 2,
        "STANDARD": 3,
        "SPOT": 4,
        "FLEX_START": 6,
    }
)
RESERVATIONS = Enumeration(
    {
        "TYPE_UNSPECIFIED": 0,
        "NO_RESERVATION": 1,
        "ANY_RESERVATION": 2,
        "SPECIFIC_RESERVATION": 3,
    }
)
STATES = Enumeration(
    {"JOB_STATE_UNSPECIFIED": 0} | {state.wire_name: int(state) for state in JobState}
)

ENV = Repeated(message(name=STRING, value=STRING))
MACHINE = message(
    machineType=STRING,
    acceleratorType=ACCELERATORS,
    acceleratorCount=INT32,
    gpuPartitionSize=STRING,
    tpuTopology=STRING,
    reservationAffinity=message(reservationAffinityType=RESERVATIONS, key=STRING, values=STRINGS),
)
POOL = message(
    machineSpec=MACHINE,
    replicaCount=INT64,
    diskSpec=message(bootDiskType=STRING, bootDiskSizeGb=INT32),
    nfsMounts=Repeated(message(server=STRING, path=STRING, mountPoint=STRING)),
    lustreMounts=Repeated(
        message(instanceIp=STRING, volumeHandle=STRING, filesystem=STRING, mountPoint=STRING)
    ),
    containerSpec=message(imageUri=STRING, command=STRINGS, args=STRINGS, env=ENV),
    pythonPackageSpec=message(
        executorImageUri=STRING, packageUris=STRINGS, pythonModule=STRING, args=STRINGS, env=ENV
    ),
)
JOB_SPEC = message(
    persistentResourceId=STRING,
    workerPoolSpecs=Repeated(POOL),
    scheduling=message(
        timeout=DURATION,
        strategy=STRATEGIES,
        restartJobOnWorkerRestart=BOOL,
        disableRetries=BOOL,
        maxWaitDuration=DURATION,
    ),
    serviceAccount=STRING,
    network=STRING,
    reservedIpRanges=STRINGS,
    pscInterfaceConfig=message(
        networkAttachment=STRING,
        dnsPeeringConfigs=Repeated(
            message(domain=STRING, targetProject=STRING, targetNetwork=STRING)
        ),
    ),
    baseOutputDirectory=message(outputUriPrefix=STRING),
    protectedArtifactLocationId=STRING,
    tensorboard=STRING,
    enableWebAccess=BOOL,
    enableDashboardAccess=BOOL,
    experiment=STRING,
    experimentRun=STRING,
    models=STRINGS,
)
CUSTOM_JOB = message(
    displayName=STRING,
    jobSpec=JOB_SPEC,
    labels=StringMap(),
    encryptionSpec=message(kmsKeyName=STRING),
    output={
        "name": ANSWERED,
        "state": STATES,
        "createTime": ANSWERED,
        "startTime": ANSWERED,
        "endTime": ANSWERED,
        "updateTime": ANSWERED,
        "error": ANSWERED,
        "webAccessUris": ANSWERED,
        "satisfiesPzs": ANSWERED,
        "satisfiesPzi": ANSWERED,
    },
)


@dataclass(frozen=True)
class Package:
    """A pool's Python packages, and the module of theirs that is run."""

    uris: tuple[str, ...]
    module: str


@dataclass(frozen=True)
class Pool:
    """What the emulator needs to know of one worker pool to run it.

    Args:
        index: 0..3; unused pools leave gaps.
        machine: the machine type of its VMs.
        replicas: how many VMs.
        slots: GPUs of one VM, at least 1.
        image: what it runs; for packages, what they are installed into.
        command: the container's command; empty for the image's entry point.
        args: the arguments of the container or of the package's module.
        env: the pool's variables, in their order.
        package: what is installed and run instead of a command.
    """

    index: int
    machine: str
    replicas: int
    slots: int
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    package: Package | None = None

    @property
    def name(self) -> str:
        """The pool as Vertex calls it, such as ``workerpool1``."""
        return f"workerpool{self.index}"

    def replica_names(self) -> list[str]:
        """The pool's replicas: ``workerpool1-0``, ``workerpool1-1``, …"""
        return [f"{self.name}-{index}" for index in range(self.replicas)]


DEFAULT_TIMEOUT = timedelta(days=7)
DEFAULT_MAX_WAIT = timedelta(hours=24)


@dataclass(frozen=True)
class Scheduling:
    """How a job is scheduled, with the API's defaults.

    Args:
        spot: whether its VMs are Spot VMs.
        flex_start: whether it waits in the queue of the Dynamic Workload Scheduler.
        timeout: the longest that it may run.
        max_wait: the longest that a Flex-start job waits; None for ever.
        restart_job_on_worker_restart: whether one replica's restart restarts them all.
        disable_retries: whether it is not restarted as a whole.
    """

    spot: bool
    flex_start: bool
    timeout: timedelta
    max_wait: timedelta | None
    restart_job_on_worker_restart: bool
    disable_retries: bool


def scheduling(job: Json) -> Scheduling:
    """How a parsed job is to be scheduled."""
    given = job["jobSpec"].get("scheduling", {})
    flex_start = given.get("strategy") == "FLEX_START"
    max_wait = _duration(given.get("maxWaitDuration"), DEFAULT_MAX_WAIT)
    return Scheduling(
        # LOW_COST is the deprecated name of what SPOT does.
        spot=given.get("strategy") in ("SPOT", "LOW_COST"),
        flex_start=flex_start,
        timeout=_duration(given.get("timeout"), DEFAULT_TIMEOUT),
        max_wait=max_wait if flex_start and max_wait else None,
        restart_job_on_worker_restart=given.get("restartJobOnWorkerRestart", False),
        disable_retries=given.get("disableRetries", False),
    )


def parse(body: Any) -> Json:
    """Returns the CustomJob of a create request in the normal form; ApiError if it is wrong."""
    job: Json = CUSTOM_JOB.parse(body, "")
    limits.check(job)
    return job


def encode(job: Json, enums_as_integers: bool) -> Json:
    """Returns the wire form of a job in the normal form.

    Vertex AI answers with all variables. Here whoever is on this machine may ask, so the
    secret of the job's run is left out.
    """
    encoded: Json = CUSTOM_JOB.encode(job, enums_as_integers)
    for pool in encoded["jobSpec"].get("workerPoolSpecs", []):
        for program in ("containerSpec", "pythonPackageSpec"):
            if variables := pool.get(program, {}).get("env"):
                pool[program]["env"] = [_shown(variable) for variable in variables]
    return encoded


def _shown(variable: Json) -> Json:
    secret = variable["name"] in (ENV_TOKEN, ENV_TRUST)
    return {**variable, "value": REDACTED} if secret else variable


def pools(job: Json) -> list[Pool]:
    """The used worker pools of a parsed job."""
    return [_pool(index, spec) for index, spec in enumerate(limits.pool_specs(job)) if spec]


def is_controller(job: Json) -> bool:
    """Whether the job is the controller of a run: its VM may use the API as its launch may."""
    return CONTROLLER_LABEL in job.get("labels", {})


def output_directory(job: Json) -> str | None:
    """The job's base output directory without a trailing slash, or None."""
    prefix = str(job["jobSpec"].get("baseOutputDirectory", {}).get("outputUriPrefix", ""))
    return prefix.rstrip("/") or None


def _pool(index: int, spec: Json) -> Pool:
    package = spec.get("pythonPackageSpec")
    program = package or spec["containerSpec"]
    return Pool(
        index=index,
        machine=spec["machineSpec"]["machineType"],
        replicas=int(spec["replicaCount"]),
        slots=max(1, spec["machineSpec"].get("acceleratorCount", 1)),
        image=program["executorImageUri"] if package else program["imageUri"],
        command=tuple(program.get("command", ())),
        args=tuple(program.get("args", ())),
        env=tuple((item["name"], item.get("value", "")) for item in program.get("env", ())),
        package=Package(tuple(package["packageUris"]), package["pythonModule"])
        if package
        else None,
    )


def _duration(text: str | None, default: timedelta) -> timedelta:
    return timedelta(seconds=float(text.removesuffix("s"))) if text else default
