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
from dataclasses import asdict, dataclass


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


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def main() -> int:
    """Returns the exit code: 0 when it can train."""
    parser = argparse.ArgumentParser(prog="python -m trainer.health", description=__doc__)
    parser.add_argument("--variant", choices=("cpu", "gpu"), help="what it has to be")
    parser.add_argument("--json", action="store_true", help="print what is installed as JSON")
    args = parser.parse_args()
    try:
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
