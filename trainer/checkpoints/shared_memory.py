"""The memory that a rank's share is copied to: another process can read it, too."""

from __future__ import annotations

import logging
import mmap
import os
import weakref

import torch

log = logging.getLogger("swell.checkpoint")


class Room:
    """``size`` bytes of memory that has no name, and is gone with the last who holds it.

    Where there is CUDA it is pinned, so that copies from a GPU need not be waited for.

    Attributes:
        size: bytes.
        memory: the same bytes: uint8, shape [size].
        fd: a file descriptor of them, open as long as this object is there.

    Raises OSError when there is no such memory.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.fd = os.memfd_create("swell-checkpoint")
        weakref.finalize(self, os.close, self.fd)
        length = max(1, size)  # there is no mapping of nothing
        os.ftruncate(self.fd, length)
        # All at once, and without the interpreter's lock: else each page would be made while the
        # training waits for its copy.
        os.posix_fallocate(self.fd, 0, length)
        self.memory = torch.frombuffer(mmap.mmap(self.fd, length), dtype=torch.uint8)[:size]
        if size and torch.cuda.is_available():
            self._pin()

    def _pin(self) -> None:
        cuda, address = torch.cuda.cudart(), self.memory.data_ptr()
        if int(cuda.cudaHostRegister(address, self.size, 0)) == 0:
            weakref.finalize(self, cuda.cudaHostUnregister, address)
        else:
            log.warning("%d bytes for checkpoints cannot be pinned: copies take longer", self.size)
