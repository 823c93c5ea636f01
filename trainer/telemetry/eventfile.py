"""TensorBoard's event files: points as records, in the library's own messages.

A record is its length, a checksum of that, an Event, and a checksum of it; all little-endian, the
checksums CRC-32C, masked (tensorflow/core/lib/io/record_writer.h). The library's own writer of
records computes these in Python, and loads numpy: here Google's C library does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from trainer.telemetry.curves import Point

NEEDED = ("tensorboard.compat.proto.event_pb2", "google_crc32c")  # to write any
VERSION = "brain.Event:2"  # the first record of a file says it
WRITER = "swell"


def beginning(time: float, step: int | None = None) -> bytes:
    """The first records of a file.

    Args:
        time: Unix seconds.
        step: from which on what earlier files tell does not count any more; None for none. (Of the
            first file it is 0: readers pass over the first of these, whatever it says.)
    """
    head = _record(wall_time=time, file_version=VERSION, source_metadata={"writer": WRITER})
    return head if step is None else head + _start(time, step)


def numbers(points: Iterable[Point]) -> bytes:
    """The values of points as records."""
    records = []
    for point in points:
        if point.again:
            records.append(_start(point.time, point.step))
        if point.values:
            values = [{"tag": name, "simple_value": it} for name, it in point.values.items()]
            records.append(
                _record(wall_time=point.time, step=point.step, summary={"value": values})
            )
    return b"".join(records)


def texts(points: Iterable[Point]) -> bytes:
    """The texts of points as records."""
    records = []
    for point in points:
        values = [_text(name, text) for name, text in point.texts.items()]
        if values:
            records.append(
                _record(wall_time=point.time, step=point.step, summary={"value": values})
            )
    return b"".join(records)


def _text(tag: str, text: str) -> dict[str, Any]:
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    return {
        "tag": tag,
        "metadata": {"plugin_data": {"plugin_name": "text"}},
        "tensor": {
            "dtype": DT_STRING,
            "tensor_shape": {"dim": [{"size": 1}]},
            "string_val": [text.encode()],
        },
    }


def _start(time: float, step: int) -> bytes:
    from tensorboard.compat.proto.event_pb2 import SessionLog

    return _record(wall_time=time, step=step, session_log={"status": SessionLog.START})


def _record(**fields: Any) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event

    data: bytes = Event(**fields).SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    import google_crc32c

    value = google_crc32c.value(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)
