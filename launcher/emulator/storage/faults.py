"""Failures on purpose, for the emulated Cloud Storage: what real ones do now and then.

A rule is JSON::

    {"method": "POST", "path": "upload/.*leader", "skip": 2, "times": 1,
     "status": 503, "when": "after"}

``method`` and ``path`` (a regular expression, searched for in the path and query) choose
requests; the first ``skip`` of them go through, then ``times`` of them (1 by default, null
for all) meet the fault. The fault is one of

- ``status``: that answer instead of the true one;
- ``cut``: true, and the connection is cut without an answer;
- ``delay``: a duration like ``"200ms"``, after which the request goes its way.

``when`` says whether the request is carried out first (``"after"``) or not (``"before"``, the
default): an answer that was lost after the commit is what clients handle worst.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launcher.emulator.storage.errors import Refused
from launcher.job.durations import parse_duration

KNOWN = {"method", "path", "skip", "times", "status", "cut", "delay", "when"}


@dataclass
class Rule:
    """One rule and how much of it is left."""

    said: dict[str, Any]
    method: str | None
    path: re.Pattern[str]
    skip: int
    times: int | None
    status: int | None
    cut: bool
    delay: float  # seconds
    after: bool

    def applies(self, method: str, path: str) -> bool:
        """Whether a request meets the fault; counts it if so."""
        if self.method not in (None, method) or not self.path.search(path) or self.times == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """The rules in force."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, said: dict[str, Any]) -> None:
        """Adds a rule; Refused when it is none."""
        self._rules.append(_parse(said))

    def clear(self) -> None:
        """Forgets all rules."""
        self._rules.clear()

    def rules(self) -> list[dict[str, Any]]:
        """The rules as they were said, with what is left of each."""
        return [{**rule.said, "skip": rule.skip, "times": rule.times} for rule in self._rules]

    def around(self, app: ASGIApp) -> ASGIApp:
        """Returns ``app`` with the faults."""

        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            rule = self._rule_for(scope)
            if rule is None:
                await app(scope, receive, send)
                return
            await asyncio.sleep(rule.delay)
            if rule.status is None and not rule.cut:
                await app(scope, receive, send)
                return
            if rule.after:
                await app(scope, receive, _nowhere)
            elif not rule.cut:
                await _read_all(receive)
            if rule.cut:
                # uvicorn's own: ASGI has no word for ending a connection without an answer.
                receive.__self__.transport.abort()  # type: ignore[attr-defined]
            else:
                assert rule.status is not None
                await _answer(rule.status)(scope, receive, send)

        return faulty

    def _rule_for(self, scope: Scope) -> Rule | None:
        if scope["type"] != "http" or scope["path"].startswith("/emulator/"):
            return None
        path = f"{scope['path']}?{unquote(scope['query_string'].decode('latin-1'))}"
        for rule in self._rules:
            if rule.applies(scope["method"], path):
                return rule
        return None


def _answer(status: int) -> JSONResponse:
    error = {"code": status, "message": "A fault that was asked for.", "errors": []}
    return JSONResponse({"error": error}, status)


async def _nowhere(message: Message) -> None:
    return None


async def _read_all(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


def _parse(said: dict[str, Any]) -> Rule:
    if unknown := sorted(set(said) - KNOWN):
        raise Refused(f"{unknown[0]!r} is not part of a rule; known are {', '.join(sorted(KNOWN))}")
    status, cut, when = said.get("status"), said.get("cut", False), said.get("when", "before")
    if when not in ("before", "after"):
        raise Refused(f"when is {when!r}; write before or after")
    if status is not None and not (isinstance(status, int) and 400 <= status < 600):
        raise Refused(f"status is {status!r}; write a status from 400 to 599")
    if not isinstance(cut, bool) or (cut and status is not None):
        raise Refused("a fault is a status or a cut (true), not both")
    if status is None and not cut and "delay" not in said:
        raise Refused("a rule needs a status, a cut or a delay")
    for name in ("skip", "times"):
        count = said.get(name)
        if count is not None and (not isinstance(count, int) or count < 0):
            raise Refused(f"{name} is {count!r}; write a whole number from 0")
    try:
        delay = parse_duration(said["delay"]).total_seconds() if "delay" in said else 0.0
        path = re.compile(str(said.get("path", "")))
    except (ValueError, re.error) as error:
        raise Refused(f"the rule is not understood: {error}") from None
    return Rule(
        said,
        said.get("method"),
        path,
        said.get("skip") or 0,
        said.get("times", 1),
        status,
        cut,
        delay,
        when == "after",
    )
