"""Typed measures in user files: ``10min``, ``1h30min``, ``250ms``; ``150 steps``.

A bare number is refused, because nobody can see whether 30 means seconds or minutes.
In Python a ``datetime.timedelta`` is as good as the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from launcher.job.problem import FORM, RANGE, UNIT, problem
from trainer.rundir.usererror import Unusable

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h|d)")
_STEPS = re.compile(r"(\d+)\s+steps?")
_LONGEST = timedelta(days=366)


@dataclass(frozen=True)
class Steps:
    """A number of completed training steps."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} steps"


def parse_duration(value: object) -> timedelta:
    """Returns the duration that ``value`` says, as text or timedelta.

    Raises Unusable.
    """
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Unusable(FORM, "is not a duration; write one like 30s, 10min or 1h30min")
    elif isinstance(value, int | float) or value.strip().replace(".", "", 1).isdigit():
        raise Unusable(UNIT, f"needs a unit; write {value}s or {value}min")
    else:
        text = value.strip()
        parts = _PART.findall(text)
        if not parts or _PART.sub("", text).strip():
            raise Unusable(
                FORM,
                f"{value!r} is not a duration; write one like 30s, 10min or 1h30min "
                f"(units: {', '.join(_UNITS)})",
            )
        try:
            duration = sum((float(n) * _UNITS[unit] for n, unit in parts), timedelta())
        except OverflowError:
            duration = timedelta.max
    if duration < timedelta():
        raise Unusable(RANGE, "is negative; a duration is zero or more")
    if duration > _LONGEST:
        raise Unusable(RANGE, f"is too long; write at most {format_duration(_LONGEST)}")
    return duration


def format_duration(duration: timedelta) -> str:
    """Returns ``duration`` in the largest unit that expresses it exactly: ``90min``."""
    for unit in ("d", "h", "min", "s"):
        whole, rest = divmod(duration, _UNITS[unit])
        if whole and not rest:
            return f"{whole}{unit}"
    return f"{duration.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


def parse_moment(value: object) -> timedelta | Steps:
    """Returns the moment that ``value`` says: a duration, or a count like ``150 steps``.

    Raises Unusable.
    """
    if isinstance(value, Steps):
        return value
    if isinstance(value, str) and (match := _STEPS.fullmatch(value.strip())):
        return Steps(int(match.group(1)))
    if isinstance(value, int) and not isinstance(value, bool):
        raise Unusable(UNIT, f"needs a unit; write {value} steps or {value}s")
    try:
        return parse_duration(value)
    except Unusable as error:
        if isinstance(value, str) and error.id == FORM:
            raise Unusable(
                FORM, f"{value!r} is not a moment; write one like 150 steps, 30s or 10min"
            ) from None
        raise


def format_moment(moment: timedelta | Steps) -> str:
    """Returns ``moment`` as it is written in a job file."""
    return str(moment) if isinstance(moment, Steps) else format_duration(moment)


def _duration_field(value: Any) -> timedelta:
    try:
        return parse_duration(value)
    except Unusable as error:
        raise problem(error.id, str(error)) from None


def _moment_field(value: Any) -> timedelta | Steps:
    try:
        return parse_moment(value)
    except Unusable as error:
        raise problem(error.id, str(error)) from None


# For editors, which cannot know that a year is too long.
_PATTERN = r"([0-9]+(\.[0-9]+)?\s*(ms|s|min|h|d)\s*)+"

Duration = Annotated[
    timedelta,
    PlainValidator(_duration_field),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^\\s*{_PATTERN}$", "examples": ["10min"]}),
]
Moment = Annotated[
    timedelta | Steps,
    PlainValidator(_moment_field),
    PlainSerializer(format_moment, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^\\s*({_PATTERN}|[0-9]+\\s+steps?\\s*)$",
            "examples": ["150 steps", "10min"],
        }
    ),
]
