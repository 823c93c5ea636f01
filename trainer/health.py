"""Says whether an installation can train: ``python -m trainer.health``.

It forms a world of one and sends one tensor through it. An image's build ends with it, so an
image that cannot train is not made; ``swell image check`` asks an image the same question.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Unfit(Exception):
    """Why the installation cannot train; one line."""


@dataclass(frozen=True)
class Health:
    """What is installed, and works.

    Attributes:
        swell, python, torch, horovod: versions.
        cuda: the CUDA version that PyTorch was built for; None for a CPU build.
        nccl: whether Horovod was built with NCCL.
        gpus: how many GPUs this machine shows to PyTorch.
        uid: who this process is; 0 is root.
    """

    swell: str
    python: str
    torch: str
    horovod: str
    cuda: str | None
    nccl: bool
    gpus: int
    uid: int


def examine(variant: str | None = None) -> Health:
    """Tries the installation out.

    Args:
        variant: "cpu" or "gpu" when it is to be that.

    Raises Unfit.
    """
    try:
        import horovod.torch as hvd
        import torch
    except (ImportError, OSError) as error:
        raise Unfit(f"Horovod and PyTorch do not load: {_line(error)}") from error
    health = Health(
        swell=importlib.metadata.version("swell"),
        python=platform.python_version(),
        torch=torch.__version__,
        horovod=importlib.metadata.version("horovod"),
        cuda=torch.version.cuda,
        nccl=bool(hvd.nccl_built()),
        gpus=torch.cuda.device_count(),
        uid=os.getuid(),
    )
    if variant == "gpu" and not (health.cuda and health.nccl):
        raise Unfit("a GPU image needs PyTorch for CUDA and Horovod with NCCL, and has not both")
    if variant == "cpu" and health.cuda:
        raise Unfit(f"a CPU image has PyTorch for CUDA {health.cuda}: gigabytes for nothing")
    if not hvd.gloo_built():
        raise Unfit("Horovod was built without gloo, which forms its worlds")
    # Nobody else is in this world, and a machine's name need not mean anything.
    os.environ.setdefault("HOROVOD_GLOO_IFACE", "lo")
    try:
        hvd.init()
        summed = hvd.allreduce(torch.ones(3), op=hvd.Sum)
        if health.gpus:
            summed = summed + hvd.allreduce(torch.ones(3, device="cuda"), op=hvd.Sum).cpu() - 1
        hvd.shutdown()
    except Exception as error:
        raise Unfit(f"Horovod forms no world of one: {_line(error)}") from error
    if not torch.equal(summed, torch.ones(3)):
        raise Unfit(f"an allreduce of ones in a world of one gave {summed.tolist()}")
    return health


@dataclass(frozen=True)
class Capacity:
    """What a machine can do: of several GPUs, what the slowest of them can.

    Attributes:
        memory: bytes per second that are read and written when memory is copied.
        matmul: floating-point operations per second of products of matrices in float32.
    """

    memory: float
    matmul: float


def measure(size: int = 2**27, side: int = 1536, times: int = 5) -> Capacity:
    """Measures this machine: the best of several times, as others may use it meanwhile.

    Args:
        size: bytes that are copied.
        side: of the square matrices.
        times: how often.

    Raises Unfit where a product of matrices is wrong.
    """
    import torch

    gpus = range(torch.cuda.device_count())
    devices = [torch.device("cuda", one) for one in gpus] or [torch.device("cpu")]
    found = [_measure_device(device, size, side, times) for device in devices]
    return Capacity(min(one.memory for one in found), min(one.matmul for one in found))


def _measure_device(device: torch.device, size: int, side: int, times: int) -> Capacity:
    import torch

    def best(work: Callable[[], object]) -> float:
        took = []
        for _ in range(times):
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            took.append(time.perf_counter() - began)
        return max(min(took), 1e-9)

    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    memory = 2 * size / best(lambda: target.copy_(source))
    # Whole numbers, so small that float32 has all sums exactly: a product is right, or wrong.
    generator = torch.Generator().manual_seed(0)
    pair = torch.randint(-4, 5, (2, side, side), generator=generator).to(torch.float32)
    left, right = pair.to(device)
    product = torch.empty(side, side, device=device)
    matmul = 2 * side**3 / best(lambda: torch.matmul(left, right, out=product))
    vector = torch.randint(1, 9, (side,), generator=generator).to(torch.float64)
    expected = pair[0].double() @ (pair[1].double() @ vector)
    if not torch.equal(product.cpu().double() @ vector, expected):
        raise Unfit(f"a product of matrices is wrong on {device}")
    return Capacity(memory, matmul)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def main() -> int:
    """Returns the exit code: 0 when it can train."""
    parser = argparse.ArgumentParser(prog="python -m trainer.health", description=__doc__)
    parser.add_argument("--variant", choices=("cpu", "gpu"), help="what it has to be")
    parser.add_argument(
        "--preflight", action="store_true", help="measure this machine, and print that as JSON"
    )
    parser.add_argument("--json", action="store_true", help="print what is installed as JSON")
    args = parser.parse_args()
    try:
        if args.preflight:
            print(json.dumps(asdict(measure())))
            return 0
        health = examine(args.variant)
    except Unfit as reason:
        print(f"This installation cannot train: {reason}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(asdict(health)))
    else:
        nccl = ", NCCL" if health.nccl else ""
        print(
            f"Swell {health.swell} on Python {health.python}, PyTorch {health.torch} and "
            f"Horovod {health.horovod}{nccl} can train; GPUs here: {health.gpus}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
