"""The filters of list requests, in Google's filter language (AIP-160).

    state="JOB_STATE_SUCCEEDED" AND display_name:"my_job_*"
    NOT state="JOB_STATE_FAILED" OR labels.team:*
    resource.labels.job_id="123" (severity>=ERROR OR timestamp>"2026-01-01T00:00:00Z")

Terms side by side are joined by AND, and OR binds more tightly than AND, as documented.
Functions and bare words are refused, not ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from launcher.emulator.logs import SEVERITIES
from launcher.emulator.resources.errors import ApiError, invalid_argument

_TOKEN = re.compile(
    r"""\s*(?:(?P<bracket>[()])
        |(?P<word>AND|OR|NOT)(?=[\s(]|$)
        |(?P<minus>-)
        |(?P<field>[A-Za-z_][\w-]*(?:\.(?:[\w-]+|"[^"]*"))*)\s*
         (?P<operator>!=|>=|<=|=|>|<|:)\s*
         (?P<value>"(?:[^"\\]|\\.)*"|[^\s"()]+))""",
    re.VERBOSE,
)
LONGEST = 10_000  # characters
DEEPEST = 50  # brackets and negations inside one another

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
}


Look = Callable[[str], str | None]  # a field's actual value, or None if it has none


@dataclass(frozen=True)
class Term:
    """One comparison. With ``:`` the field must hold the value, in which ``*`` stands for any
    text; a lone ``*`` asks whether the field is there at all."""

    field: str
    operator: str
    value: str

    def holds(self, look: Look) -> bool:
        """Whether the comparison holds for what ``look`` sees."""
        actual = look(self.field)
        if actual is None:
            return self.operator == "!="
        if self.operator == ":":
            if "*" not in self.value:
                return self.value in actual
            pattern = ".*".join(map(re.escape, re.split(r"\*+", self.value)))
            return re.fullmatch(pattern, actual, re.DOTALL) is not None
        left, right = _comparable(self.field, actual), _comparable(self.field, self.value)
        return _COMPARISONS[self.operator](left, right)

    def terms(self) -> Iterator[Term]:
        """This term."""
        yield self


@dataclass(frozen=True)
class Not:
    """The opposite of one expression."""

    inner: Expression

    def holds(self, look: Look) -> bool:
        """Whether the inner expression does not hold."""
        return not self.inner.holds(look)

    def terms(self) -> Iterator[Term]:
        """All comparisons inside."""
        yield from self.inner.terms()


@dataclass(frozen=True)
class All:
    """Expressions that must all hold; none of them always do."""

    parts: tuple[Expression, ...]

    def holds(self, look: Look) -> bool:
        """Whether every part holds."""
        return all(part.holds(look) for part in self.parts)

    def terms(self) -> Iterator[Term]:
        """All comparisons inside."""
        for part in self.parts:
            yield from part.terms()


@dataclass(frozen=True)
class Any_:
    """Expressions of which one must hold."""

    parts: tuple[Expression, ...]

    def holds(self, look: Look) -> bool:
        """Whether one part holds."""
        return any(part.holds(look) for part in self.parts)

    def terms(self) -> Iterator[Term]:
        """All comparisons inside."""
        for part in self.parts:
            yield from part.terms()


Expression = Term | Not | All | Any_


def parse_filter(text: str) -> All:
    """Returns the expression of a filter; ApiError when it is not understood."""
    if len(text) > LONGEST:
        raise invalid_argument(f"filter is longer than {LONGEST} characters.")
    parser = _Parser(text.strip())
    return parser.sequence(0) if parser.text else All(())


class _Parser:
    """Reads a filter from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._position = 0
        self._next = self._read()

    def sequence(self, depth: int) -> All:
        """Factors joined by AND or by nothing, up to the end or the bracket that closes."""
        if depth > DEEPEST:
            raise invalid_argument(f"filter has more than {DEEPEST} nested expressions.")
        parts = [self._factor(depth)]
        while self._next and self._next["bracket"] != ")":
            if self._next["word"] == "AND":
                self._advance()
            parts.append(self._factor(depth))
        if self._next and depth == 0:
            raise self._trouble()
        return All(tuple(parts))

    def _factor(self, depth: int) -> Expression:
        parts = [self._term(depth)]
        while self._next and self._next["word"] == "OR":
            self._advance()
            parts.append(self._term(depth))
        return parts[0] if len(parts) == 1 else Any_(tuple(parts))

    def _term(self, depth: int) -> Expression:
        token = self._next
        if token is None or token["bracket"] == ")" or token["word"] in ("AND", "OR"):
            raise self._trouble()
        self._advance()
        if token["word"] or token["minus"]:
            if depth >= DEEPEST:
                raise invalid_argument(f"filter has more than {DEEPEST} nested expressions.")
            return Not(self._term(depth + 1))
        if token["bracket"]:
            inner = self.sequence(depth + 1)
            if self._next is None:
                raise self._trouble()
            self._advance()
            return inner
        value = token["value"]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        if token["operator"] != ":":
            _comparable(token["field"], value)  # refuses what cannot be compared
        return Term(token["field"].replace('"', ""), token["operator"], value)

    def _advance(self) -> None:
        assert self._next
        self._position = self._next.end()
        self._next = self._read()

    def _read(self) -> re.Match[str] | None:
        if self._position >= len(self.text):
            return None
        token = _TOKEN.match(self.text, self._position)
        if token is None:
            raise self._trouble()
        return token

    def _trouble(self) -> ApiError:
        rest = self.text[self._position : self._position + 40]
        return invalid_argument(
            f"filter is not understood from {rest!r} on: write comparisons such as "
            'state="JOB_STATE_RUNNING", joined by AND, OR and NOT.'
        )


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
