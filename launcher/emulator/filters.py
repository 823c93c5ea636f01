"""The filters of list requests: comparisons that must all hold.

    state="JOB_STATE_RUNNING" AND labels.team:*
    resource.labels.job_id="123" AND timestamp>"2026-01-01T00:00:00Z"

OR, NOT and parentheses are refused, not ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from launcher.emulator.errors import invalid_argument
from launcher.emulator.logs import SEVERITIES

_TERM = re.compile(
    r"""\s*(?P<field>[A-Za-z_][\w.-]*)\s*(?P<operator>!=|>=|<=|=|>|<|:)\s*
        (?P<value>"(?:[^"\\]|\\.)*"|[^\s"()]+)""",
    re.VERBOSE,
)
_AND = re.compile(r"\s+(?:AND\s+)?")
LONGEST = 10_000  # characters

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
}


@dataclass(frozen=True)
class Term:
    """One comparison. With ``:`` the field must hold the value, or anything if it is ``*``."""

    field: str
    operator: str
    value: str

    def holds(self, actual: str | None) -> bool:
        """Whether the comparison holds for the field's actual value; None if it has none."""
        if actual is None:
            return self.operator == "!="
        if self.operator == ":":
            return self.value == "*" or self.value in actual
        left, right = _comparable(self.field, actual), _comparable(self.field, self.value)
        return _COMPARISONS[self.operator](left, right)


def parse_filter(text: str) -> list[Term]:
    """Returns the comparisons of a filter; ApiError when it is not understood."""
    if len(text) > LONGEST:
        raise invalid_argument(f"filter is longer than {LONGEST} characters.")
    terms: list[Term] = []
    position, text = 0, text.strip()
    while position < len(text):
        joint = _AND.match(text, position) if terms else None
        start = joint.end() if joint else position
        term = _TERM.match(text, start)
        if term is None or (terms and joint is None):
            raise invalid_argument(
                f"filter is not understood from {text[position : position + 40]!r} on: "
                'write comparisons such as state="JOB_STATE_RUNNING", joined by AND.'
            )
        value = term["value"]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        terms.append(Term(term["field"], term["operator"], value))
        _comparable(term["field"], value)  # refuses what cannot be compared
        position = term.end()
    return terms


def _comparable(field: str, value: str) -> Any:
    if field == "timestamp" or field.endswith(("_time", "Time")):
        try:
            moment = datetime.fromisoformat(_python_timestamp(value))
        except ValueError:
            raise invalid_argument(f"filter: {field} needs a timestamp, got {value!r}.") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    if field == "severity":
        if value not in SEVERITIES:
            raise invalid_argument(f"filter: severity must be one of {', '.join(SEVERITIES)}.")
        return SEVERITIES.index(value)
    return value


def _python_timestamp(text: str) -> str:
    # What Python 3.10 reads: no Z, and exactly six digits after the point.
    text = re.sub(r"[Zz]$", "+00:00", text)
    return re.sub(r"\.(\d+)", lambda match: "." + match[1][:6].ljust(6, "0"), text)
