"""One worker pool: its machines, what is mounted and set on them, and what they run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from launcher.job.machines import MACHINES, TPU, Machine, unknown_machine
from launcher.job.model import JobModel, Text, beside, resource, valid
from launcher.job.problem import (
    CONFLICT,
    DEPENDS,
    FORM,
    MISSING,
    NUL,
    RANGE,
    RESERVED,
    Problem,
    problem,
)
from launcher.job.sizes import Size, SizeField

DEFAULT_IMAGE = "swell-trainer"
AGENT_MODULE = "trainer.agent"
OWN_PACKAGES = ("launcher", "trainer")  # Swell's, which the VMs have already
MAX_PACKAGES = 100
MAX_REPLICAS = 10_000  # of one pool; nobody has as many, and a slip of the finger may ask for more
MIN_DISK, MAX_DISK = Size(100 * 2**30), Size(64_000 * 2**30)
_RESERVED_ENV = ("SWELL_", "AIP_", "CLOUD_ML_", "CLUSTER_SPEC", "GCE_METADATA_")
_AGENT_WORDS = ("swell-agent", AGENT_MODULE)


def swells_own(module: str) -> str | None:
    """Returns the package of Swell's that a module is in, by its name; None for others."""
    top = module.partition(".")[0]
    return top if top in OWN_PACKAGES else None


def _machine_name(name: str) -> str:
    if name not in MACHINES:
        raise unknown_machine(name)
    return name


def _environment(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise problem(
                FORM,
                f"{name[:60]!r} is not a variable name; "
                "write letters, digits and _, not beginning with a digit",
            )
        if name.startswith(_RESERVED_ENV):
            raise problem(
                RESERVED, f"{name[:60]} is set by Swell or Vertex AI; choose another name"
            )
        if "\0" in value:
            raise problem(NUL, f"{name[:60]} holds a NUL character; remove it")
    return env


def _words(words: list[str]) -> list[str]:
    for word in words:
        if "\0" in word:
            raise problem(NUL, f"{word[:60]!r} holds a NUL character; remove it")
    return words


def _disk_size(size: Size) -> Size:
    if not MIN_DISK <= size <= MAX_DISK:
        raise problem(RANGE, f"is {size}; a boot disk has {MIN_DISK} to {MAX_DISK.gib:.0f}GiB")
    if size.bytes % 2**30:
        raise problem(RANGE, f"is {size}; write whole GiB")
    return size


Environment = Annotated[
    dict[str, str],
    AfterValidator(_environment),
    Field(json_schema_extra={"propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}}),
]
Words = Annotated[list[str], AfterValidator(_words)]
Image = Annotated[
    str,
    Text(r"[^\s@]+(@sha256:[0-9a-f]{64})?", "write an image like REGION-docker.pkg.dev/P/R/IMAGE"),
]
ModuleName = Annotated[
    str,
    Text(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", "write a module: package.module"),
]
MachineName = Annotated[str, AfterValidator(_machine_name), WithJsonSchema({"enum": [*MACHINES]})]


PackageUri = Annotated[str, Text(r"gs://[^/\s]+/\S+|(file:///)?[^\s:]+", "write gs://BUCKET/FILE")]


class Container(JobModel):
    """A container image to run. Its entry point, or the command, starts Swell's agent.

    ``container: IMAGE`` is short for ``container: {image: IMAGE}``.
    """

    image: Image = Field(DEFAULT_IMAGE, description="The image's URI, in Artifact Registry")
    command: Words = Field(default_factory=list, description="In place of the entry point")
    args: Words = Field(default_factory=list, description="The arguments of either")

    _short: ClassVar = {"type": "string"}

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        return {"image": data} if isinstance(data, str) else data

    @property
    def starts_agent(self) -> bool:
        """Whether Swell's agent is what runs: no command of its own, or one that names it."""
        words = " ".join([*self.command, *self.args])
        return not self.command or any(name in words for name in _AGENT_WORDS)


class Package(JobModel):
    """Python packages to install into a prebuilt image, and the module to run then."""

    executor: Image = Field(description="A prebuilt image, such as Google's for PyTorch")
    uris: Annotated[list[PackageUri], Field(max_length=MAX_PACKAGES)] = Field(
        default_factory=list,
        description="gs:// paths of the packages; on the local target also files",
    )
    module: ModuleName | None = Field(
        None, description="What to run, with python -m; by default Swell's agent"
    )
    args: Words = Field(default_factory=list, description="The module's arguments")

    @field_validator("uris")
    @classmethod
    def _files_are_beside_the_job_file(cls, uris: list[str], info: ValidationInfo) -> list[str]:
        return [uri if "://" in uri else beside(uri, info) for uri in uris]

    @property
    def starts_agent(self) -> bool:
        """Whether Swell's agent is what runs: no module of its own, or that one."""
        return self.module in (None, AGENT_MODULE)


class Accelerators(JobModel):
    """The GPUs of one machine. The catalogue knows them: stated, they must be right.

    ``accelerators: 8 x NVIDIA_H100_80GB`` is short for the mapping.
    """

    type: str
    count: int = Field(ge=1)

    _short: ClassVar = {"type": "string", "pattern": r"^\s*[0-9]+\s*x\s*\S+\s*$"}
    _forms: ClassVar = "text like 8 x NVIDIA_H100_80GB, or a mapping of type and count"

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        match = (
            re.fullmatch(r"\s*(\d{1,9})\s*x\s*(\S+)\s*", data) if isinstance(data, str) else None
        )
        return {"type": match.group(2), "count": int(match.group(1))} if match else data


class Disk(JobModel):
    """The boot disk of each replica. ``disk: 500GiB`` is short for ``disk: {size: 500GiB}``.

    What is not stated is left to Vertex AI: 100 GiB of pd-ssd, or of hyperdisk-balanced on A3 Ultra
    (aiplatform_v1, DiskSpec).
    """

    type: Literal["pd-ssd", "pd-standard", "hyperdisk-balanced"] | None = None
    size: Annotated[SizeField, AfterValidator(_disk_size)] | None = None

    _short: ClassVar = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*(GiB|TiB)$"}

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        return {"size": data} if isinstance(data, str | int | float | Size) else data


class NfsMount(JobModel):
    """A file system that replicas find in /mnt/nfs/NAME.

    ``10.0.0.2:/data:NAME`` is short for the mapping.
    """

    server: Annotated[str, Text(r"[^\s:/]+", "write the server's IP address")]
    path: Annotated[str, Text(r"/\S*", "write an absolute path on the server")]
    mount_point: Annotated[
        str, Text(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", "write a name; the mount is /mnt/nfs/NAME")
    ]

    _short: ClassVar = {"type": "string", "pattern": r"^[^\s:/]+:/[^\s:]*:[A-Za-z0-9_.\-]+$"}
    _forms: ClassVar = "SERVER:/PATH:NAME, or a mapping of server, path and mount_point"

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        parts = data.split(":") if isinstance(data, str) else []
        if len(parts) != 3:
            return data
        return dict(zip(("server", "path", "mount_point"), parts, strict=True))


class Reservation(JobModel):
    """Whether replicas use reserved capacity: none, any, or the one that is named.

    ``reservation: any`` and ``reservation: projects/…`` are short for the mapping.
    """

    affinity: Literal["none", "any", "specific"]
    name: Annotated[str, resource("projects/PROJECT/zones/ZONE/reservations/NAME")] | None = None

    _short: ClassVar = {"type": "string"}

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        if data in ("none", "any", "specific"):
            return {"affinity": data}
        return {"affinity": "specific", "name": data}

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, Mapping):
            return
        affinity, name = fields.get("affinity"), fields.get("name")
        if affinity == "specific" and name is None:
            what = "is missing; write projects/PROJECT/zones/ZONE/reservations/NAME"
            yield ("name",), MISSING, what
        if affinity in ("none", "any") and name is not None:
            yield ("name",), DEPENDS, "belongs to affinity: specific; remove it, or write that"


class Pool(JobModel):
    """One worker pool: ``replicas`` VMs of one machine type.

    ``3 x a2-highgpu-1g`` is short for ``{machine: a2-highgpu-1g, replicas: 3}``.
    """

    machine: MachineName = Field(description="A machine type of the series A2 or A3")
    replicas: int = Field(
        1, ge=1, le=MAX_REPLICAS, description="How many VMs; the first pool has exactly 1"
    )
    slots: int | None = Field(
        None, ge=1, description="Workers of a replica; by default one for each GPU"
    )
    accelerators: Accelerators | None = Field(
        None, description="The machine's GPUs; need not be stated"
    )
    disk: Disk | None = Field(None, description="The boot disk of each replica")
    nfs: list[NfsMount] = Field(default_factory=list, description="Mounts in /mnt/nfs")
    reservation: Reservation | None = Field(None, description="Whether reserved capacity is used")
    env: Environment = Field(
        default_factory=dict, description="Variables, beside and before the job's"
    )
    container: Container | None = Field(None, description="In place of the job's")
    package: Package | None = Field(None, description="In place of the job's container or package")

    _short: ClassVar = {"type": "string", "pattern": r"^\s*([0-9]+\s*x\s*)?[a-z][a-z0-9\-]*\s*$"}
    _forms: ClassVar = "text like 3 x a2-highgpu-1g, or a mapping of machine, replicas, …"

    @classmethod
    def _written_out(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        match = re.fullmatch(r"\s*(?:(\d{1,9})\s*x\s*)?(\S+)\s*", data)
        if not match:
            return data
        replicas = {"replicas": int(match.group(1))} if match.group(1) else {}
        return {"machine": match.group(2), **replicas}

    @property
    def machine_type(self) -> Machine:
        """The catalogue's entry of the pool's machine."""
        return MACHINES[self.machine]

    @property
    def workers(self) -> int:
        """How many workers the pool has when all its replicas are there and run the agent."""
        return self.replicas * (self.slots or self.machine_type.gpus)

    @classmethod
    def _clashes(cls, fields: Any) -> Iterator[Problem]:
        if not isinstance(fields, Mapping):
            return
        if fields.get("container") is not None and fields.get("package") is not None:
            yield ("package",), CONFLICT, "stands beside container; keep one of them"
        stated = fields.get("accelerators")
        read = None if stated is None else valid(Accelerators, stated)
        name = fields.get("machine")
        machine = MACHINES.get(name) if isinstance(name, str) else None
        if not (read and machine):
            return
        gpu, count = machine.accelerator.name, machine.gpus
        if read.type.startswith("TPU"):
            yield (
                ("accelerators",),
                TPU,
                f"asks for {read.type[:60]}, and Spot offers no TPUs for training; remove it",
            )
        elif (read.type, read.count) != (gpu, count):
            yield (
                ("accelerators",),
                "SW1105",
                f"is {read.count} x {read.type[:60]}; {name} has {count} x {gpu}, "
                "write that or remove it",
            )


def with_slots(pool: Any, slots: int) -> Any:
    """Returns a pool, of which anything may be wrong, with ``slots`` unless it says how many."""
    written = Pool.written_out(pool)
    if isinstance(written, Pool):
        said = written.slots is not None
        return written if said else written.model_copy(update={"slots": slots})
    if not isinstance(written, dict) or written.get("slots") is not None:
        return pool
    return {**written, "slots": slots}
