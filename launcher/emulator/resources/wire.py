"""The types of values in Google's REST JSON: how each is read from a request and written.

The normal form in between has camelCase keys, enum names, int64 as strings, and
nothing that is unset.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

from launcher.emulator.resources.errors import ApiError, invalid_argument


class Field(Protocol):
    """One type of value: reads it from a request and writes it to an answer."""

    def parse(self, value: Any, at: str) -> Any:
        """Returns the normal form of ``value``; ApiError names the field ``at``."""

    def encode(self, value: Any, enums_as_integers: bool) -> Any:
        """Returns the wire form of a value in the normal form."""


@dataclass(frozen=True)
class Scalar:
    """A string or a boolean."""

    type: type
    noun: str

    def parse(self, value: Any, at: str) -> Any:
        if not isinstance(value, self.type):
            raise invalid_argument(f"{at} must be {self.noun}, got {_shown(value)}.")
        return value

    def encode(self, value: Any, enums_as_integers: bool) -> Any:
        return value


@dataclass(frozen=True)
class Integer:
    """An integer; 64-bit ones are strings in JSON, and both kinds are accepted as either."""

    bits: int

    def parse(self, value: Any, at: str) -> Any:
        text = str(value) if isinstance(value, str | int | float) else ""
        number = int(match[1]) if (match := re.fullmatch(r"(-?\d{1,19})(?:\.0)?", text)) else None
        limit = 2 ** (self.bits - 1)
        if number is None or not -limit <= number < limit:
            raise invalid_argument(f"{at} must be an integer, got {_shown(value)}.")
        return str(number) if self.bits == 64 else number

    def encode(self, value: Any, enums_as_integers: bool) -> Any:
        return value


@dataclass(frozen=True)
class Duration:
    """Seconds with the suffix ``s``: ``"3600s"``, ``"1.5s"``."""

    def parse(self, value: Any, at: str) -> Any:
        if not isinstance(value, str) or not re.fullmatch(r"-?\d{1,12}(\.\d{1,9})?s", value):
            raise invalid_argument(f'{at} must be a duration such as "3600s", got {_shown(value)}.')
        return value

    def encode(self, value: Any, enums_as_integers: bool) -> Any:
        return value


@dataclass(frozen=True)
class Enumeration:
    """One of some names, each with its number."""

    numbers: dict[str, int]

    def parse(self, value: Any, at: str) -> Any:
        if isinstance(value, str) and value in self.numbers:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            for name, number in self.numbers.items():
                if number == value:
                    return name
        raise invalid_argument(
            f"{at} must be one of {', '.join(self.numbers)}, got {_shown(value)}."
        )

    def encode(self, value: Any, enums_as_integers: bool) -> Any:
        return self.numbers[value] if enums_as_integers else value


@dataclass(frozen=True)
class Repeated:
    """A list of one type."""

    item: Field

    def parse(self, value: Any, at: str) -> Any:
        if not isinstance(value, list):
            raise invalid_argument(f"{at} must be a list, got {_shown(value)}.")
        return [self.item.parse(item, f"{at}[{index}]") for index, item in enumerate(value)]

    def encode(self, value: Any, enums_as_integers: bool) -> Any:
        return [self.item.encode(item, enums_as_integers) for item in value]


@dataclass(frozen=True)
class StringMap:
    """A map from strings to strings, as labels are."""

    def parse(self, value: Any, at: str) -> Any:
        if not isinstance(value, dict):
            raise invalid_argument(f"{at} must be a map of strings, got {_shown(value)}.")
        return {key: STRING.parse(item, f"{at}[{key!r}]") for key, item in value.items()}

    def encode(self, value: Any, enums_as_integers: bool) -> Any:
        return value


@dataclass(frozen=True)
class Message:
    """Named fields. ``output`` fields are only answered: in a request they are ignored."""

    fields: dict[str, Field]
    output: dict[str, Field]

    def parse(self, value: Any, at: str) -> Any:
        if not isinstance(value, dict):
            raise invalid_argument(f"{at} must be an object, got {_shown(value)}.")
        parsed: dict[str, Any] = {}
        for given, item in value.items():
            name = camel_case(given)
            inside = f"{at}.{name}" if at else name
            if name in self.output:
                continue
            if name not in self.fields:
                raise unknown_name(given, at)
            if name in parsed:
                raise invalid_argument(f"{inside} is given twice.")
            if item is not None:  # null means unset
                parsed[name] = self.fields[name].parse(item, inside)
        return parsed

    def encode(self, value: Any, enums_as_integers: bool) -> Any:
        known = {**self.fields, **self.output}
        return {name: known[name].encode(item, enums_as_integers) for name, item in value.items()}


@dataclass(frozen=True)
class Answered:
    """A value that the emulator itself makes and hands out as it is."""

    def parse(self, value: Any, at: str) -> Any:
        return value

    def encode(self, value: Any, enums_as_integers: bool) -> Any:
        return value


def message(output: dict[str, Field] | None = None, **fields: Field) -> Message:
    """A message with these fields, and ``output`` ones that only answers have."""
    return Message(fields, output or {})


STRING = Scalar(str, "a string")
BOOL = Scalar(bool, "true or false")
INT32 = Integer(32)
INT64 = Integer(64)
DURATION = Duration()
STRINGS = Repeated(STRING)
ANSWERED = Answered()


def unknown_name(name: str, at: str) -> ApiError:
    """The error for a field that does not exist, in the service's own words."""
    inside = re.sub(r"[A-Z]", lambda match: "_" + match[0].lower(), f"customJob.{at}".rstrip("."))
    message = (
        f"Invalid JSON payload received. Unknown name \"{name[:80]}\" at '{inside}': "
        "Cannot find field."
    )
    violation = {"field": inside, "description": message}
    details = {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}
    return ApiError(400, "INVALID_ARGUMENT", message, [details])


def camel_case(name: str) -> str:
    """A field's name as answers have it; requests may write it in either case."""
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
