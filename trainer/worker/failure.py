"""What an error of the user's code says of whose fault it may be. Pure.

The kinds are those of ``trainer.coordinator.blame``, which decides. A GPU reports what is wrong
with it, and what the program has done to it, by the same class of error; the text tells.
"""

from __future__ import annotations

import errno
import re
from typing import Literal

from trainer.loaders.sample import SampleError

Kind = Literal["program", "machine", "unsure", "raised"]

# What CUDA and NCCL say of hardware: docs.nvidia.com/cuda/cuda-runtime-api, "cudaError_t".
_HARDWARE = re.compile(
    r"(?ix) uncorrectable | \bECC\b | \bXid\b | hardware\ (?:stack\ )?error | fallen\ off\ the\ bus"
    r"| device\(?s?\)?\ is/are\ busy\ or\ unavailable | no\ CUDA-capable\ device"
    r"| driver\ shutting\ down | system\ not\ yet\ initialized | ncclSystemError"
    r"| unhandled\ system\ error"
)
# What a program does to a GPU.
_PROGRAM = re.compile(r"(?i)device-side assert|invalid (?:argument|configuration|device function)")
# What torch says when a process that loads data has died, perhaps for want of memory.
_LOADER = re.compile(r"DataLoader worker \(pid.*\) (?:is killed by signal|exited unexpectedly)")
_DISK = frozenset({errno.EIO, errno.EROFS, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.ESTALE})


def kind_of(error: BaseException) -> Kind:
    """Whose fault ``error`` may be."""
    if isinstance(error, SampleError) and error.__cause__ is not None:
        return kind_of(error.__cause__)
    names = {one.__name__ for one in type(error).__mro__}
    text = str(error)
    gpu = "AcceleratorError" in names or re.search(r"(?i)\b(?:CUDA|NCCL|cuDNN|HIP) error\b", text)
    if isinstance(error, OSError):
        if error.errno in _DISK:
            return "machine"
        return "unsure" if error.errno in _FULL else "program"
    if isinstance(error, MemoryError) or "LoadersLost" in names:
        return "unsure"
    if isinstance(error, RuntimeError) and _LOADER.search(text):
        return "unsure"
    if isinstance(error, RuntimeError) and gpu and "OutOfMemoryError" not in names:
        if _HARDWARE.search(text):
            return "machine"
        return "program" if _PROGRAM.search(text) else "unsure"
    return "program"


def kind_in_elastic(error: BaseException) -> Kind:
    """Whose fault ``error`` may be where a script of Elastic Horovod raises it, in its function."""
    kind = kind_of(error)
    return "raised" if kind == "program" else kind
