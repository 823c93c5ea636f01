"""CustomJob as JSON on the wire: what the API accepts, what the emulator keeps, what it answers.

A request may come from Google's client (enums as integers, int64 as strings, empty
pools) or from curl (enums as names). Both become one normal form: camelCase keys,
enum names, int64 as strings, nothing unset. Answers are encoded from that form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from launcher.emulator.errors import invalid_argument
from launcher.emulator.wire import (
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

Json = dict[str, Any]


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
class Pool:
    """What the emulator needs to know of one worker pool to run it.

    Args:
        index: 0..3; unused pools leave gaps.
        replicas: how many VMs.
        slots: GPUs of one VM, at least 1.
        command: the container's command; empty for the image's entry point.
        args: the container's arguments.
        env: the container's variables, in their order.
    """

    index: int
    replicas: int
    slots: int
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The pool as Vertex calls it, such as ``workerpool1``."""
        return f"workerpool{self.index}"

    def replica_names(self) -> list[str]:
        """The pool's replicas: ``workerpool1-0``, ``workerpool1-1``, …"""
        return [f"{self.name}-{index}" for index in range(self.replicas)]


def parse(body: Any) -> Json:
    """Returns the CustomJob of a create request in the normal form; ApiError if it is wrong."""
    job: Json = CUSTOM_JOB.parse(body, "")
    _validate(job)
    return job


def encode(job: Json, enums_as_integers: bool) -> Json:
    """Returns the wire form of a job in the normal form."""
    encoded: Json = CUSTOM_JOB.encode(job, enums_as_integers)
    return encoded


def pools(job: Json) -> list[Pool]:
    """The used worker pools of a parsed job."""
    return [_pool(index, spec) for index, spec in enumerate(_pool_specs(job)) if spec]


def output_directory(job: Json) -> str | None:
    """The job's base output directory without a trailing slash, or None."""
    prefix = str(job["jobSpec"].get("baseOutputDirectory", {}).get("outputUriPrefix", ""))
    return prefix.rstrip("/") or None


def _pool(index: int, spec: Json) -> Pool:
    container = spec["containerSpec"]
    return Pool(
        index=index,
        replicas=int(spec["replicaCount"]),
        slots=max(1, spec["machineSpec"].get("acceleratorCount", 1)),
        command=tuple(container.get("command", ())),
        args=tuple(container.get("args", ())),
        env=tuple((item["name"], item.get("value", "")) for item in container.get("env", ())),
    )


def _pool_specs(job: Json) -> list[Json]:
    specs: list[Json] = job.get("jobSpec", {}).get("workerPoolSpecs", [])
    # The client writes an unused pool as {} or with its count spelled out as nought.
    return [{} if set(spec) <= {"replicaCount"} and _count(spec) == 0 else spec for spec in specs]


def _count(spec: Json) -> int:
    return int(spec.get("replicaCount", "0"))


MAX_NAME = 128  # characters of displayName
MAX_POOLS = 4
MAX_REPLICAS = 250  # of one job: every VM has a loopback address of its own
MAX_ENV = 100  # variables of one pool


def _validate(job: Json) -> None:
    if not 1 <= len(job.get("displayName", "")) <= MAX_NAME:
        raise invalid_argument(f"displayName must have 1 to {MAX_NAME} characters.")
    specs = _pool_specs(job)
    at = "jobSpec.workerPoolSpecs"
    if not any(specs):
        raise invalid_argument(f"{at} must hold at least one worker pool.")
    if len(specs) > MAX_POOLS:
        raise invalid_argument(f"{at} has {len(specs)} pools; at most {MAX_POOLS} are allowed.")
    for index, spec in enumerate(specs):
        if spec:
            _validate_pool(spec, f"{at}[{index}]")
    if _count(specs[0]) != 1:
        raise invalid_argument(
            f"{at}[0].replicaCount must be 1, got {_count(specs[0])}: "
            "the first pool holds the primary replica alone."
        )
    if sum(_count(spec) for spec in specs) > MAX_REPLICAS:
        raise invalid_argument(f"{at} ask for more than {MAX_REPLICAS} replicas.")


def _validate_pool(spec: Json, at: str) -> None:
    if _count(spec) < 1:
        raise invalid_argument(f"{at}.replicaCount must be at least 1, got {_count(spec)}.")
    if not spec.get("machineSpec", {}).get("machineType"):
        raise invalid_argument(f"{at}.machineSpec.machineType is required.")
    if spec["machineSpec"].get("acceleratorCount", 0) < 0:
        raise invalid_argument(f"{at}.machineSpec.acceleratorCount must not be negative.")
    if ("containerSpec" in spec) == ("pythonPackageSpec" in spec):
        raise invalid_argument(f"{at} must have either containerSpec or pythonPackageSpec.")
    if "pythonPackageSpec" in spec:
        raise invalid_argument(
            f"{at}.pythonPackageSpec is not emulated yet: use containerSpec with a command."
        )
    container = spec["containerSpec"]
    if not container.get("imageUri"):
        raise invalid_argument(f"{at}.containerSpec.imageUri is required.")
    for field in ("command", "args"):
        if any("\0" in part for part in container.get(field, ())):
            raise invalid_argument(f"{at}.containerSpec.{field} must not hold NUL characters.")
    _validate_env(container.get("env", []), f"{at}.containerSpec.env")


def _validate_env(env: list[Json], at: str) -> None:
    if len(env) > MAX_ENV:
        raise invalid_argument(f"{at} has {len(env)} variables; at most {MAX_ENV} are allowed.")
    for index, variable in enumerate(env):
        name = variable.get("name", "")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise invalid_argument(f"{at}[{index}].name must be a C identifier, got {name!r}.")
        if "\0" in variable.get("value", ""):
            raise invalid_argument(f"{at}[{index}].value must not hold a NUL character.")
