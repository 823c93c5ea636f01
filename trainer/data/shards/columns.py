"""What a sample is made of: columns, each with an encoding, as MosaicML Streaming defines them.

The bytes are those of its format MDS, version 2 (github.com/mosaicml/streaming,
streaming/base/format/mds/encodings.py). All numbers in it are little-endian. Its encoding ``pkl``
is never read: what is unpickled can do anything.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.rundir.untrusted import parse_json

Decode = Callable[[bytes], Any]

_WIDTHS = (8, 16, 32, 64)
# An array of any type says which it is of, by a byte.
_CODES = {
    **{bits: f"uint{bits}" for bits in _WIDTHS},
    **{bits + 1: f"int{bits}" for bits in _WIDTHS},
    **{bits + 2: f"float{bits}" for bits in _WIDTHS[1:]},
}
SCALARS = tuple(_CODES.values())
_TYPES = {name: code for code, name in _CODES.items()}
IMAGES = ("jpeg", "png", "pil")
KNOWN = ("bytes", "str", "int", "json", "ndarray", *IMAGES, "str_int", "str_float", *SCALARS)


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: of it.
        encoding: as the index says it, such as ``ndarray:uint16:2048``.
        size: the bytes that each value has; None where that varies.
    """

    name: str
    encoding: str
    size: int | None


def decoder(encoding: str) -> Decode:
    """What decodes values. Raises ValueError for an encoding that is not among KNOWN."""
    kind, _, of = encoding.partition(":")
    if kind == "ndarray":
        return _array_decoder(of)
    if of or kind not in KNOWN:
        raise ValueError(f"the encoding {encoding!r} cannot be read; known are {', '.join(KNOWN)}")
    if kind in SCALARS:
        dtype = np.dtype(kind)
        return lambda data: np.frombuffer(data, dtype)[0]
    if kind in IMAGES:
        return _picture if kind == "pil" else _image
    simple: dict[str, Decode] = {
        "bytes": bytes,
        "str": lambda data: data.decode(),
        "int": lambda data: int.from_bytes(data, "little", signed=True),
        "json": parse_json,
        "str_int": lambda data: int(data.decode()),
        "str_float": lambda data: float(data.decode()),
    }
    return simple[kind]


def encoding_of(value: Any) -> str:
    """The encoding for a value. Raises TypeError for one that has none."""
    if isinstance(value, bool | np.bool_):
        return "uint8"
    if isinstance(value, np.generic) and value.dtype.name in SCALARS:
        return str(value.dtype.name)
    for kind, encoding in (
        (int, "int"),
        (float, "float64"),
        (str, "str"),
        (bytes | bytearray | memoryview, "bytes"),
        (dict | list, "json"),
    ):
        if isinstance(value, kind):
            return encoding
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if not array.ndim:
            return encoding_of(array[()])
        if array.dtype.name in _TYPES:
            return "ndarray"
        raise TypeError(f"an array of {array.dtype.name}; known are {', '.join(_TYPES)}")
    raise TypeError(f"a {type(value).__name__}")


def size_of(encoding: str) -> int | None:
    """The bytes of each value; None where that varies."""
    return 8 if encoding == "int" else np.dtype(encoding).itemsize if encoding in SCALARS else None


def encoded(encoding: str, value: Any) -> bytes:
    """The bytes of a value; those of an encoding that ``encoding_of`` gives.

    Raises TypeError or ValueError for a value that is none of it.
    """
    own = encoding_of(value)
    if own != encoding and not (own in SCALARS and encoding in ("int", *SCALARS)):
        raise TypeError(f"{own}, and it was {encoding} before")
    if encoding == "int":
        return int(value).to_bytes(8, "little", signed=True)
    if encoding in SCALARS:
        return np.asarray(value).astype(encoding).tobytes()
    if encoding == "str":
        return bytes(value.encode())
    if encoding == "json":
        return json.dumps(value).encode()
    if encoding == "bytes":
        return bytes(value)
    array = np.asarray(value)
    if not array.size:
        raise ValueError("an array without elements")
    wide = max(array.shape)
    power = next(one for one in range(4) if wide < 256 ** (2**one))
    head = bytes([_TYPES[array.dtype.name], array.ndim << 2 | power])
    shape = np.asarray(array.shape, f"<u{2**power}")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return head + shape.tobytes() + little.tobytes()


def _array_decoder(of: str) -> Decode:
    """That of arrays: their type and shape are in ``of``, or in each value."""
    name, _, sides = of.partition(":")
    if name and name not in _TYPES:
        raise ValueError(f"an array of {name!r} cannot be read; known are {', '.join(_TYPES)}")
    fixed = tuple(map(int, sides.split(","))) if sides else None

    def decode(data: bytes) -> Any:
        at, dtype, shape = 0, name, fixed
        if not name:
            dtype, at = _CODES[data[0]], 1
        if shape is None:
            dimensions, power = data[at] >> 2, data[at] & 3
            after = at + 1 + dimensions * 2**power
            shape = tuple(np.frombuffer(data[at + 1 : after], f"<u{2**power}").tolist())
            at = after
        # A copy: it can be written to, and lies as its type wants it.
        return np.frombuffer(data, dtype, offset=at).reshape(shape).copy()

    return decode


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("images need Pillow: pip install pillow") from error
    return Image


def _image(data: bytes) -> Any:
    image = _pillow().open(io.BytesIO(data))
    image.load()
    return image


def _picture(data: bytes) -> Any:
    width, height, length = np.frombuffer(data[:12], "<u4").tolist()
    return _pillow().frombytes(
        data[12 : 12 + length].decode(), (width, height), data[12 + length :]
    )


assert sys.byteorder == "little", "MDS, and all machines with GPUs, are little-endian"
