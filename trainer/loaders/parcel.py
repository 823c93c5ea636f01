"""What one process hands to another on this machine: pickled into memory that has no name.

A parcel is one file descriptor, which goes through a socket in a message of a few bytes: nobody
ever waits for a reader, and a sender may die when it has sent. The bytes of CPU tensors and NumPy
arrays lie in it as they are; whoever opens it has tensors that *are* that memory, without a copy.
"""

from __future__ import annotations

import array
import io
import mmap
import os
import pickle
import socket
import struct
from typing import Any

import torch
from torch import Tensor

_ALIGN = 64  # bytes
_HEAD = struct.Struct("=QQ")  # where the table of buffers begins, and how many there are


class Parcel:
    """A value in memory that has no name. To be closed, when it was sent.

    Args:
        value: anything that can be pickled.

    Raises what pickling raises, and OSError when there is no memory.
    """

    def __init__(self, value: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        text = io.BytesIO()
        _Pickler(text, protocol=5, buffer_callback=buffers.append).dump(value)
        self._fd = os.memfd_create("swell-parcel", os.MFD_CLOEXEC)
        try:
            table, end = array.array("Q"), 0
            for view in (text.getbuffer(), *(one.raw() for one in buffers)):
                _write(self._fd, view, end)
                table.extend((end, len(view)))
                end = -(-(end + len(view)) // _ALIGN) * _ALIGN
            _write(self._fd, memoryview(table).cast("B"), end)
        except BaseException:
            self.close()
            raise
        self._head = _HEAD.pack(end, len(table) // 2)

    def send(self, line: socket.socket) -> None:
        """Sends it through a socket of datagrams; it can be sent again. Raises OSError."""
        socket.send_fds(line, [self._head], [self._fd])

    def close(self) -> None:
        """Lets go of the memory, which stays for those who have received it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def send(line: socket.socket, value: Any) -> None:
    """Sends a value through a socket of datagrams. Raises as ``Parcel`` and its ``send`` do."""
    parcel = Parcel(value)
    try:
        parcel.send(line)
    finally:
        parcel.close()


def receive(line: socket.socket) -> Any:
    """Returns the next value that was sent. Raises EOFError when nobody sends any more."""
    try:
        head, fds, _, _ = socket.recv_fds(line, _HEAD.size, 1)
    except ConnectionError:  # the sender has left something unread; what it sent is there still
        head, fds, _, _ = socket.recv_fds(line, _HEAD.size, 1)
    if not head or not fds:
        raise EOFError
    (fd,) = fds
    try:
        memory = memoryview(mmap.mmap(fd, 0))
    finally:
        os.close(fd)
    end, count = _HEAD.unpack(head)
    table = memory[end : end + 16 * count].cast("Q").tolist()
    places = zip(table[::2], table[1::2], strict=True)
    text, *buffers = [memory[start : start + size] for start, size in places]
    return pickle.loads(text, buffers=buffers)


def _write(fd: int, data: memoryview, start: int) -> None:
    while len(data):
        written = os.pwrite(fd, data, start)
        data, start = data[written:], start + written


class _Pickler(pickle.Pickler):
    """Leaves the bytes of tensors where they are."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not Tensor or value.device.type != "cpu" or value.requires_grad:
            return NotImplemented
        if value.layout is not torch.strided or value.is_quantized or value.is_conj():
            return NotImplemented
        flat: Any = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return _tensor, (pickle.PickleBuffer(flat), value.dtype, tuple(value.shape))


def _tensor(data: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not memoryview(data).nbytes:
        return torch.empty(shape, dtype=dtype, device="cpu")
    return torch.frombuffer(data, dtype=dtype).reshape(shape)
