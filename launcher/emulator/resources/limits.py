"""What the API refuses of a CustomJob that is well-formed: its limits, each by its field."""

from __future__ import annotations

import re
from typing import Any

from launcher.emulator.resources.errors import invalid_argument
from launcher.emulator.resources.unserved import INSTEAD, unimplemented
from launcher.job.machines import MACHINES

Json = dict[str, Any]

MAX_NAME = 128  # characters of displayName
MAX_LABELS = 64
MAX_POOLS = 4
MAX_REPLICAS = 250  # of one job: every VM has a loopback address of its own
MAX_ENV = 100  # variables of one pool
MAX_PACKAGES = 100
DISK_TYPES = ("pd-ssd", "pd-standard", "hyperdisk-balanced")
DISK_SIZES = (100, 64_000)  # GB
SPOT_SERIES = ("a2-", "a3-")  # what may be a Spot VM in training
LABEL_KEY = re.compile(r"(?!\d)[\w-]{1,64}")  # lowercase is checked apart
LABEL_VALUE = re.compile(r"[\w-]{0,64}")
TENSORBOARD = re.compile(r"projects/[^/]+/locations/[^/]+/tensorboards/[^/]+")


def check(job: Json) -> None:
    """Raises ApiError when a job in the normal form breaks a limit."""
    if not 1 <= len(job.get("displayName", "")) <= MAX_NAME:
        raise invalid_argument(f"displayName must have 1 to {MAX_NAME} characters.")
    _check_labels(job.get("labels", {}))
    specs = pool_specs(job)
    at = "jobSpec.workerPoolSpecs"
    if not any(specs):
        raise invalid_argument(f"{at} must hold at least one worker pool.")
    if len(specs) > MAX_POOLS:
        raise invalid_argument(f"{at} has {len(specs)} pools; at most {MAX_POOLS} are allowed.")
    strategy = job["jobSpec"].get("scheduling", {}).get("strategy", "STANDARD")
    for index, spec in enumerate(specs):
        if spec:
            _check_pool(spec, f"{at}[{index}]", strategy)
    if _count(specs[0]) != 1:
        raise invalid_argument(
            f"{at}[0].replicaCount must be 1, got {_count(specs[0])}: "
            "the first pool holds the primary replica alone."
        )
    if sum(_count(spec) for spec in specs) > MAX_REPLICAS:
        raise invalid_argument(f"{at} ask for more than {MAX_REPLICAS} replicas.")
    _check_scheduling(job["jobSpec"].get("scheduling", {}))
    _check_resources(job["jobSpec"])


def pool_specs(job: Json) -> list[Json]:
    """The job's pools; an unused one is empty, however it was written."""
    specs: list[Json] = job.get("jobSpec", {}).get("workerPoolSpecs", [])
    # The client writes an unused pool as {} or with its count spelled out as nought.
    return [{} if set(spec) <= {"replicaCount"} and _count(spec) == 0 else spec for spec in specs]


def _count(spec: Json) -> int:
    return int(spec.get("replicaCount", "0"))


def _check_labels(labels: dict[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise invalid_argument(f"labels: {len(labels)} are given; at most {MAX_LABELS} are.")
    for key, value in labels.items():
        for text, form in ((key, LABEL_KEY), (value, LABEL_VALUE)):
            if text != text.lower() or not form.fullmatch(text):
                raise invalid_argument(
                    f"labels[{key!r}]: {text[:80]!r} must have at most 64 lowercase letters, "
                    "digits, _ and -, and a key begins with a letter."
                )


def _check_scheduling(scheduling: Json) -> None:
    at = "jobSpec.scheduling"
    for name in ("timeout", "maxWaitDuration"):
        if scheduling.get(name, "0s").startswith("-"):
            raise invalid_argument(f"{at}.{name} must not be negative.")
    if "maxWaitDuration" in scheduling and scheduling.get("strategy") != "FLEX_START":
        raise invalid_argument(f"{at}.maxWaitDuration needs the strategy FLEX_START.")


def _check_resources(spec: Json) -> None:
    """What a job uses besides its VMs."""
    if "persistentResourceId" in spec:
        raise unimplemented("persistent resources", INSTEAD["persistentResources"])
    if name := spec.get("tensorboard"):
        if not TENSORBOARD.fullmatch(name):
            raise invalid_argument(
                "jobSpec.tensorboard must be projects/PROJECT/locations/REGION/tensorboards/ID, "
                f"got {name[:80]!r}."
            )
        if not spec.get("serviceAccount"):
            raise invalid_argument(
                "jobSpec.serviceAccount is required when jobSpec.tensorboard is given."
            )


def _check_pool(spec: Json, at: str, strategy: str) -> None:
    if _count(spec) < 1:
        raise invalid_argument(f"{at}.replicaCount must be at least 1, got {_count(spec)}.")
    _check_machine(spec.get("machineSpec", {}), f"{at}.machineSpec", strategy)
    _check_disk(spec.get("diskSpec", {}), f"{at}.diskSpec")
    if ("containerSpec" in spec) == ("pythonPackageSpec" in spec):
        raise invalid_argument(f"{at} must have either containerSpec or pythonPackageSpec.")
    if "pythonPackageSpec" in spec:
        _check_package(spec["pythonPackageSpec"], f"{at}.pythonPackageSpec")
    else:
        _check_container(spec["containerSpec"], f"{at}.containerSpec")


def _check_machine(machine: Json, at: str, strategy: str) -> None:
    name, count = machine.get("machineType", ""), machine.get("acceleratorCount", 0)
    if not name:
        raise invalid_argument(f"{at}.machineType is required.")
    if strategy in ("SPOT", "LOW_COST") and not name.startswith(SPOT_SERIES):
        raise invalid_argument(
            f"{at}.machineType: {name!r} cannot be a Spot VM; A2 and A3 machines can."
        )
    if count < 0:
        raise invalid_argument(f"{at}.acceleratorCount must not be negative.")
    known, accelerator = MACHINES.get(name), machine.get("acceleratorType")
    if known and accelerator and (accelerator, count) != (known.accelerator.name, known.gpus):
        raise invalid_argument(
            f"{at}: {name} has {known.gpus} {known.accelerator.name}, not {count} {accelerator}."
        )


def _check_disk(disk: Json, at: str) -> None:
    if disk.get("bootDiskType", DISK_TYPES[0]) not in DISK_TYPES:
        raise invalid_argument(f"{at}.bootDiskType must be one of {', '.join(DISK_TYPES)}.")
    low, high = DISK_SIZES
    if not low <= disk.get("bootDiskSizeGb", low) <= high:
        raise invalid_argument(f"{at}.bootDiskSizeGb must be from {low} to {high}.")


def _check_container(container: Json, at: str) -> None:
    if not container.get("imageUri"):
        raise invalid_argument(f"{at}.imageUri is required.")
    _check_texts(container, at, "command", "args")
    _check_env(container.get("env", []), f"{at}.env")


def _check_package(package: Json, at: str) -> None:
    for name in ("executorImageUri", "pythonModule"):
        if not package.get(name):
            raise invalid_argument(f"{at}.{name} is required.")
    if not all(part.isidentifier() for part in package["pythonModule"].split(".")):
        raise invalid_argument(f"{at}.pythonModule must be a module's name.")
    uris = package.get("packageUris", [])
    if not 1 <= len(uris) <= MAX_PACKAGES:
        raise invalid_argument(
            f"{at}.packageUris must hold 1 to {MAX_PACKAGES} packages, got {len(uris)}."
        )
    for index, uri in enumerate(uris):
        # The service takes gs:// only; files of this machine are the emulator's addition.
        if not re.fullmatch(r"(gs://[^/\0]+|file://|)/[^\0]+", uri):
            raise invalid_argument(
                f"{at}.packageUris[{index}] must be gs://BUCKET/FILE, or file:///FILE here, "
                f"got {uri[:80]!r}."
            )
    _check_texts(package, at, "args")
    _check_env(package.get("env", []), f"{at}.env")


def _check_texts(program: Json, at: str, *fields: str) -> None:
    for name in fields:
        if any("\0" in part for part in program.get(name, ())):
            raise invalid_argument(f"{at}.{name} must not hold NUL characters.")


def _check_env(env: list[Json], at: str) -> None:
    if len(env) > MAX_ENV:
        raise invalid_argument(f"{at} has {len(env)} variables; at most {MAX_ENV} are allowed.")
    for index, variable in enumerate(env):
        name = variable.get("name", "")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise invalid_argument(f"{at}[{index}].name must be a C identifier, got {name!r}.")
        if "\0" in variable.get("value", ""):
            raise invalid_argument(f"{at}[{index}].value must not hold a NUL character.")
