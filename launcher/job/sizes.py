"""Typed sizes in user files: ``200GiB``, ``2TiB``.

A bare number is refused, and so is GB, which means two things.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from launcher.job.problem import FORM, UNIT, problem
from trainer.rundir.usererror import Unusable

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_FORM = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,10})?)\s*(KiB|MiB|GiB|TiB)")
_PATTERN = r"^[0-9]+(\.[0-9]+)?\s*(KiB|MiB|GiB|TiB)$"


@dataclass(frozen=True, order=True)
class Size:
    """A number of bytes; its text is in the largest unit that expresses it exactly."""

    bytes: int

    @property
    def gib(self) -> float:
        """The size in GiB."""
        return self.bytes / 2**30

    def __str__(self) -> str:
        for unit, factor in reversed(_UNITS.items()):
            if self.bytes and self.bytes % factor == 0:
                return f"{self.bytes // factor}{unit}"
        return f"{self.bytes / 2**10:.10f}".rstrip("0").rstrip(".") + "KiB"


def parse_size(value: object) -> Size:
    """Returns the size that ``value`` says, as text or Size.

    Raises Unusable.
    """
    if isinstance(value, Size):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Unusable(FORM, "is not a size; write one like 200GiB or 2TiB")
    text = str(value).strip()
    if text.replace(".", "", 1).isdigit():
        raise Unusable(UNIT, f"needs a unit; write {text}GiB")
    match = _FORM.fullmatch(text)
    if not match:
        raise Unusable(FORM, f"{text[:60]!r} is not a size; write one like 200GiB or 2TiB")
    return Size(round(float(match.group(1)) * _UNITS[match.group(2)]))


def _size_field(value: Any) -> Size:
    try:
        return parse_size(value)
    except Unusable as error:
        raise problem(error.id, str(error)) from None


SizeField = Annotated[
    Size,
    PlainValidator(_size_field),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _PATTERN, "examples": ["200GiB"]}),
]
