"""What a data set's samples are like, in two numbers: ranks that should have the same compare them.

Ranks read the files of their own machines. Two data sets of one length may have other samples: a
split by chance, an older copy, a list of files in another order. All that is ours, and what lies in
memory, is known as a whole. Of other data sets a few samples are read: what differs in a few places
is not found by them, what is ordered or chosen otherwise is. Where samples cannot be compared, as
they are others each time or take too long, what is chosen of them still is.

Numbers with a fraction are not told by their bits, as processors round in different ways. A sum of
their magnitudes is told, each with a weight of its own, and those who compare allow for rounding.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset

SAMPLES, READ = 4, 4  # of a data set, and how often each is read: it may not be the same twice
MOST = 5.0  # seconds for all that; what takes longer is not known
WHOLE = 2**26  # bytes in memory that are looked at whole
ROUNDED = 1e-5  # of a sum: more than rounding explains
_BITS = 52  # that float64 holds
_RUN = 2**16  # numbers that have weights of their own


@dataclass(frozen=True)
class Likeness:
    """What data is like.

    Attributes:
        exact: a digest of all but numbers with a fraction, below 2**52; 0 when nothing is known.
        level: a weighted sum of the magnitudes of those.
        chosen: a digest of how many samples there are, and which ones are chosen of others, below
            2**52; 0 when it is not known.
    """

    exact: int = 0
    level: float = 0.0
    chosen: int = 0

    def differs(self, other: Likeness) -> bool:
        """Whether it is that of other data; not, where one of them is not known."""
        if self.chosen and other.chosen and self.chosen != other.chosen:
            return True
        if not self.exact or not other.exact:
            return False
        far = abs(self.level - other.level) > ROUNDED * max(abs(self.level), abs(other.level))
        return self.exact != other.exact or far


UNKNOWN = Likeness()


class Untold(Exception):
    """It cannot be told."""


def likeness_of(data: Sequence[Any], seed: Callable[[int], None]) -> Likeness:
    """What some data sets are like together; not known where a sample is another one each time.

    Args:
        data: the data sets; each may be None.
        seed: seeds all random generators by a number.
    """
    chosen = _sketched(lambda sketch: _add_each(sketch, data))
    samples = _sketched(lambda sketch: _add_all(sketch, data, _Reading(seed)))
    return replace(samples, chosen=chosen.exact)


def _sketched(add: Callable[[_Sketch], object]) -> Likeness:
    """That of what is added; not known where it raises."""
    sketch = _Sketch()
    try:
        add(sketch)
    except Exception:  # what is wrong with a sample is told when it is wanted
        return UNKNOWN
    return sketch.likeness


class _Reading:
    """Reads samples, as long as there is time."""

    def __init__(self, seed: Callable[[int], None]) -> None:
        self._seed = seed
        self._until = time.monotonic() + MOST

    def each(self, data: Any) -> Iterator[Any]:
        """Some samples. Raises Untold for those that come out otherwise each time."""
        for index in _some(len(data)):
            known = None
            for _ in range(READ):
                if time.monotonic() > self._until:
                    raise Untold
                self._seed(index)
                sample = data[index]
                sketch = _Sketch()
                sketch.add(sample)
                if known is not None and sketch.likeness != known:
                    raise Untold
                known = sketch.likeness
            yield sample


class _Sketch:
    """What was added, one after another."""

    def __init__(self) -> None:
        self._digest = xxhash.xxh3_64()
        self._level = 0.0
        self._count = 0

    @property
    def likeness(self) -> Likeness:
        return Likeness((self._digest.intdigest() >> (64 - _BITS)) or 1, self._level)

    def add(self, value: Any) -> None:
        """Adds a value. Raises Untold for one that nothing can be told of."""
        kind = type(value).__qualname__
        if isinstance(value, str | os.PathLike):
            # Of a file its name counts: where it lies may be another place on each machine.
            text = os.fspath(value)
            name = os.path.basename(text) if os.path.isabs(text) else text
            self._say(kind, name.encode(errors="replace") if isinstance(name, str) else name)
        elif isinstance(value, bool | int) or value is None:
            self._say(kind, repr(value).encode())
        elif isinstance(value, float | complex):
            self._add_array(kind, np.asarray(value))
        elif isinstance(value, bytes | bytearray):
            self._say(kind, value)
        elif isinstance(value, Tensor):
            if value.layout != torch.strided:
                raise Untold
            flat = torch.view_as_real(value) if value.is_complex() else value
            wide = flat.double() if flat.is_floating_point() else flat
            self._add_array(f"{kind} {value.dtype}", wide.detach().cpu().numpy())
        elif isinstance(value, np.ndarray | np.generic):
            self._add_array(kind, np.asarray(value))
        elif isinstance(value, dict):
            self._say(kind, len(value))
            for key, one in value.items():
                self.add(key)
                self.add(one)
        elif isinstance(value, list | tuple):
            self._say(kind, len(value))
            for one in value:
                self.add(one)
        elif is_dataclass(value) and not isinstance(value, type):
            self._say(kind)
            for field in fields(value):
                self.add(getattr(value, field.name))
        elif hasattr(value, "__array__") or hasattr(value, "__array_interface__"):  # a picture
            self._add_array(kind, np.asarray(value))
        else:
            raise Untold

    def _add_array(self, kind: str, array: Any) -> None:
        if array.dtype.hasobject:
            raise Untold
        self._say(kind, f"{array.dtype.kind}{array.shape}".encode())
        if array.dtype.kind == "c":
            array = np.stack([array.real, array.imag])
        if array.dtype.kind != "f":
            self._digest.update(np.ascontiguousarray(array).tobytes())
            return
        flat = np.nan_to_num(np.ascontiguousarray(array, np.float64).reshape(-1))
        # What is below 0 counts otherwise: a sum of magnitudes has no differences that cancel out.
        sized = np.abs(flat) * np.where(flat < 0, 0.6180339887498949, 1.0)
        for start in range(0, len(sized), _RUN):
            part = sized[start : start + _RUN]
            self._count += 1
            scale = 1 + (0.7548776662466927 * self._count) % 1
            self._level += scale * float(part @ _WEIGHTS[: len(part)])

    def _say(self, kind: str, value: Any = b"") -> None:
        data = value if isinstance(value, bytes | bytearray) else str(value).encode()
        self._digest.update(f"{kind}:{len(data)};".encode())
        self._digest.update(data)


_WEIGHTS = 0.5 + np.random.RandomState(3).random_sample(_RUN)


def _add_all(sketch: _Sketch, several: Sequence[Any], reading: _Reading) -> None:
    sketch.add(len(several))
    for one in several:
        _add_data(sketch, one, reading)


def _add_data(sketch: _Sketch, data: Any, reading: _Reading) -> None:
    identity = getattr(data, "samples_identity", None)
    parts = getattr(data, "samples_of", None)
    if data is None or isinstance(identity, str):
        sketch.add(identity)
    elif isinstance(parts, list):
        _add_all(sketch, parts, reading)
    elif type(data) is Subset:
        sketch.add(list(data.indices))
        _add_data(sketch, data.dataset, reading)
    elif type(data) is ConcatDataset:
        _add_all(sketch, data.datasets, reading)
    elif type(data) is TensorDataset and _is_small(data):
        sketch.add(data.tensors)
    elif isinstance(data, np.ndarray | Tensor) and data.nbytes <= WHOLE:
        sketch.add(data)
    else:
        sketch.add(len(data))
        if isinstance(data, TensorDataset) and _is_small(data):  # what it makes of them, too
            sketch.add(data.tensors)
        for sample in reading.each(data):
            sketch.add(sample)


def _is_small(data: TensorDataset) -> bool:
    total: int = sum(one.nbytes for one in getattr(data, "tensors", ()))
    return total <= WHOLE


def _add_parts(sketch: _Sketch, data: Any, inside: tuple[int, ...] = ()) -> None:
    """Adds what is known of a data set without a look at its samples.

    Args:
        sketch: see above.
        data: the data set.
        inside: the ids of those that it is a part of.
    """
    if id(data) in inside:
        return
    indices = getattr(data, "indices", None)
    if isinstance(data, Subset) and indices is not None:
        sketch.add(np.asarray(indices))
    sketch.add(len(data) if isinstance(data, Sized) else None)
    identity = getattr(data, "samples_identity", None)
    if isinstance(identity, str):
        sketch.add(identity)
        return
    if isinstance(data, TensorDataset) and _is_small(data):
        for one in getattr(data, "tensors", ()):
            if not one.is_floating_point() and not one.is_complex():  # these may be rounded
                sketch.add(one)
    _add_each(sketch, _parts(data), (*inside, id(data)))


def _add_each(sketch: _Sketch, several: Sequence[Any], inside: tuple[int, ...] = ()) -> None:
    for one in several:
        _add_parts(sketch, one, inside)


def _parts(data: Any) -> list[Any]:
    """The data sets that a data set is made of: those that it has as attributes."""
    parts = getattr(data, "samples_of", None)
    if isinstance(parts, list):
        return parts
    held = getattr(data, "__dict__", {})
    if isinstance(data, Subset) and "dataset" in held:
        return [held["dataset"]]
    if isinstance(data, ConcatDataset | StackDataset) and "datasets" in held:
        return _several(held["datasets"])
    found: list[Any] = []
    for _, value in sorted(held.items()):
        several = _several(value) or [value]
        if isinstance(several[0], Dataset):
            found += several
    return found


def _several(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _some(samples: int) -> list[int]:
    """The first and the last, and some between them."""
    return sorted({(samples - 1) * part // (SAMPLES - 1) for part in range(SAMPLES)})
