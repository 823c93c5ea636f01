"""The machines that Spot training on Vertex AI offers, A2 and A3, and their regions: as data.

Prices are estimates for planning: USD per hour from a public catalogue snapshot of
unknown date, without Vertex's management fee. What is not known is None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from launcher.job.problem import problem

PRICES_AS_OF = "a public catalogue snapshot of unknown date; estimates, without Vertex's fee"


@dataclass(frozen=True)
class Price:
    """One price in USD per hour, and what it stands for."""

    usd_per_hour: float
    region: str = "us-central1"
    gpus_only: bool = False


@dataclass(frozen=True)
class Accelerator:
    """A GPU type under Vertex's name, with its memory, its Spot quota and where it trains.

    ``peers`` is whether its machines can be in a network of yours by VPC peering; if not, by a
    network attachment alone. ``tflops`` is what one computes at most, dense, in bf16, in 10^12
    operations a second, as NVIDIA's data sheets have it: of the A100 (312), of the H100 SXM and the
    H200 SXM half of what these say "with sparsity" (1,979).
    """

    name: str
    memory_gb: int
    spot_quota: str
    regions: tuple[str, ...]
    tflops: float
    peers: bool = True


@dataclass(frozen=True)
class Machine:
    """One machine type: what a replica of a pool is made of."""

    name: str
    accelerator: Accelerator
    gpus: int
    vcpus: int
    memory_gb: int
    network_gbps: int
    spot: Price | None = None
    on_demand: Price | None = None
    standard: bool = True  # whether it is to be had with the strategy standard, and reserved

    @property
    def flops(self) -> float:
        """Operations a second of all its GPUs together, at most: dense, in bf16."""
        return self.gpus * self.accelerator.tflops * 1e12

    @property
    def series(self) -> str:
        """The machine series: a2 or a3."""
        return self.name.split("-", 1)[0]


def _quota(gpu: str) -> str:
    return f"custom_model_training_preemptible_nvidia_{gpu}_gpus"


_A100_40 = Accelerator(
    "NVIDIA_TESLA_A100",
    40,
    _quota("a100"),
    (
        "asia-northeast3",
        "asia-southeast1",
        "europe-west4",
        "me-west1",
        "us-central1",
        "us-east1",
        "us-west3",
        "us-west4",
    ),
    312.0,
)
_A100_80 = Accelerator(
    "NVIDIA_A100_80GB",
    80,
    _quota("a100_80gb"),
    ("asia-southeast1", "europe-west4", "us-central1", "us-east4", "us-east5"),
    312.0,
)
_H100 = Accelerator(
    "NVIDIA_H100_80GB",
    80,
    _quota("h100"),
    (
        "asia-northeast1",
        "asia-northeast3",
        "asia-south1",
        "asia-southeast1",
        "europe-west1",
        "europe-west2",
        "europe-west3",
        "europe-west4",
        "northamerica-northeast2",
        "us-central1",
        "us-east4",
        "us-east5",
        "us-west1",
        "us-west4",
    ),
    989.5,
)
_H100_MEGA = Accelerator(
    "NVIDIA_H100_MEGA_80GB",
    80,
    _quota("h100_mega"),
    (
        "asia-east1",
        "asia-northeast1",
        "asia-southeast1",
        "australia-southeast1",
        "europe-north1",
        "europe-west1",
        "europe-west3",
        "europe-west4",
        "us-central1",
        "us-east4",
        "us-east5",
        "us-west1",
        "us-west4",
    ),
    989.5,
    peers=False,
)
_H200 = Accelerator(
    "NVIDIA_H200_141GB",
    141,
    _quota("h200"),
    (
        "asia-south1",
        "asia-south2",
        "europe-west1",
        "europe-west4",
        "us-central1",
        "us-east4",
        "us-east5",
        "us-south1",
        "us-west1",
    ),
    989.5,
    peers=False,
)

_ALL = (
    Machine("a2-highgpu-1g", _A100_40, 1, 12, 85, 24, Price(1.80), Price(3.67)),
    Machine("a2-highgpu-2g", _A100_40, 2, 24, 170, 32),
    Machine("a2-highgpu-4g", _A100_40, 4, 48, 340, 50),
    Machine("a2-highgpu-8g", _A100_40, 8, 96, 680, 100, Price(14.43), Price(29.39)),
    Machine("a2-megagpu-16g", _A100_40, 16, 96, 1360, 100, Price(27.34), Price(55.74)),
    Machine("a2-ultragpu-1g", _A100_80, 1, 12, 170, 24, Price(2.51)),
    Machine("a2-ultragpu-2g", _A100_80, 2, 24, 340, 32),
    Machine("a2-ultragpu-4g", _A100_80, 4, 48, 680, 50),
    Machine("a2-ultragpu-8g", _A100_80, 8, 96, 1360, 100, Price(20.11)),
    Machine("a3-highgpu-1g", _H100, 1, 26, 234, 25, Price(3.35), standard=False),
    Machine("a3-highgpu-2g", _H100, 2, 52, 468, 50, standard=False),
    Machine("a3-highgpu-4g", _H100, 4, 104, 936, 100, standard=False),
    Machine("a3-highgpu-8g", _H100, 8, 208, 1872, 800, Price(26.8), Price(87.83, "us-east4")),
    Machine("a3-megagpu-8g", _H100_MEGA, 8, 208, 1872, 1800, Price(25.28, gpus_only=True)),
    Machine("a3-ultragpu-8g", _H200, 8, 224, 2952, 3200, Price(37.25, gpus_only=True)),
)

TPU = "SW1104"  # the message about TPUs, which Spot does not offer

# To offer more, add entries above: everything else follows from them.
MACHINES = {machine.name: machine for machine in _ALL}
SERIES = sorted({machine.series.upper() for machine in _ALL})
LOCAL = "local"  # project and region where the job names none, which only the local target allows
REGIONS = sorted({region for machine in _ALL for region in machine.accelerator.regions})


def nearest(name: str) -> str | None:
    """Returns the known machine type that ``name`` most likely meant, if any comes near."""
    found = get_close_matches(name.lower()[:60], MACHINES, n=1, cutoff=0.6)
    return found[0] if found else None


def unknown_machine(name: str) -> PydanticCustomError:
    """Returns the problem of a machine type that is not in the catalogue."""
    shown = repr(name[:60])
    if "tpu" in name.lower() or re.fullmatch(r"ct\d\w*-.*", name):
        return problem(
            TPU,
            f"{shown} is a TPU machine, and Spot offers no TPUs for training; "
            f"choose a GPU machine, for example {_ALL[0].name}",
        )
    near = nearest(name)
    remedy = f"did you mean {near}?" if near else f"known are {', '.join(MACHINES)}"
    series = " or ".join(SERIES)
    return problem("SW1101", f"{shown} is not a machine of the series {series}; {remedy}")


def unknown_region(name: str) -> str:
    """Returns what is wrong with a region that has none of the machines, and the remedy."""
    near = get_close_matches(name.lower()[:60], REGIONS, n=1, cutoff=0.6)
    remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(REGIONS)}"
    return f"{name[:60]!r} is not a region with {' or '.join(SERIES)} machines; {remedy}"


def known_region(name: str) -> str:
    """Returns ``name``. Raises the problem of a region that has none of the machines."""
    if name not in REGIONS:
        raise problem("SW1102", unknown_region(name))
    return name


Region = Annotated[str, AfterValidator(known_region), WithJsonSchema({"enum": REGIONS})]
Regions = Annotated[
    list[Region],
    Field(max_length=len(REGIONS)),
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given,
        json_schema_input_type=list[Region] | Region,
    ),
]
