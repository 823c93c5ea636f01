"""How far a torchrun script is: what it reports, or prints as the job describes. Pure."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field

from trainer.rundir.untrusted import parse_json

LINE_LIMIT = 64 * 1024  # bytes of a line that is looked at
METRICS_LIMIT = 64  # of one step


@dataclass(frozen=True)
class Report:
    """So many steps are completed, the last one with these metrics."""

    step: int
    metrics: dict[str, float] = field(default_factory=dict)


def parse_report(line: bytes) -> Report | None:
    """What a line of ``trainer.report`` says; None for anything else."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, OverflowError):
        value = parse_json(line)
        step, metrics = value["step"], value["metrics"]
        if type(step) is int and step >= 0:
            few = list(metrics.items())[:METRICS_LIMIT]
            return Report(step, {str(name): float(number) for name, number in few})
    return None


class Pattern:
    """What the job says a step's line looks like.

    Args:
        text: a regular expression with a group ``step``; the other groups with names are metrics.
            Empty for none.

    Raises re.error, and ValueError without that group.
    """

    def __init__(self, text: str) -> None:
        self._pattern = re.compile(text.encode())
        if text and "step" not in self._pattern.groupindex:
            raise ValueError("it has no group (?P<step>...)")
        self.given = bool(text)

    def find(self, line: bytes) -> Report | None:
        """What a line of output says of a step; None if that is nothing."""
        found = self._pattern.search(line[:LINE_LIMIT]) if self.given else None
        if found is None:
            return None
        values = {}
        for name, text in found.groupdict(b"").items():  # a group may take no part in a match
            with suppress(ValueError, TypeError):
                values[name] = float(text.replace(b",", b""))
        step = values.pop("step", -1.0)
        return Report(int(step), values) if 0 <= step < 2**53 else None


class Lines:
    """Cuts what comes from a pipe into lines; a carriage return ends one, too."""

    def __init__(self) -> None:
        self._partial = b""

    def cut(self, data: bytes) -> list[bytes]:
        """Returns the lines that are complete now."""
        *lines, rest = re.split(rb"[\r\n]+", self._partial + data)
        self._partial = rest[-LINE_LIMIT:]
        return lines
