"""Checks and what they find; run at the same time, each with a limit.

A check is a name and a function of no arguments that returns a ``Finding``. It raises nothing that
it expects; of what it raises all the same, and of silence, becomes "could not check".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.api.apierror import ApiError
from launcher.words import one_line

LIMIT = 30.0  # seconds for all checks together

Verdict = Literal["pass", "fail", "unknown"]


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        verdict: unknown when it could not be checked.
        said: what was found, in a line.
        fix: what to do, for what did not pass.
        id: which message it is (docs/messages.md), for what did not pass.
    """

    verdict: Verdict
    said: str
    fix: str = ""
    id: str = ""


@dataclass(frozen=True)
class Check:
    """One thing to look at."""

    name: str
    look: Callable[[], Finding]


def passed(said: str) -> Finding:
    """Returns the finding of what is as it should be."""
    return Finding("pass", said)


def failed(id: str, said: str, fix: str) -> Finding:
    """Returns the finding of what would keep the run from working."""
    return Finding("fail", said, fix, id)


def unknown(said: str, fix: str = "", id: str = "SW6001") -> Finding:
    """Returns the finding of what could not be looked at; the id is for one without its own."""
    return Finding("unknown", said, fix, id)


def refused(error: ApiError) -> Finding:
    """Returns what an API's error means: that a thing is wrong, or only that it did not answer."""
    if error.kind == "credentials":  # a check of its own says it
        return unknown("there are no credentials that work")
    silent = error.transient or error.kind == "silent"
    return unknown(str(error), id=error.id) if silent else failed(error.id, str(error), "")


def examine(checks: Sequence[Check], limit: float = LIMIT) -> list[tuple[str, Finding]]:
    """Runs all checks at once. Returns name and finding of each, in their order.

    Args:
        checks: what to look at.
        limit: seconds after which those that are not done count as unknown.
    """
    findings: list[Finding | None] = [None] * len(checks)

    def look(index: int) -> None:
        try:
            findings[index] = checks[index].look()
        except ApiError as error:
            findings[index] = refused(error)
        except Exception as error:  # a check that breaks must not take the others with it
            findings[index] = unknown(f"{type(error).__name__}: {one_line(str(error))}")

    # Daemons: one that hangs for ever does not keep the command from its end.
    threads = [
        threading.Thread(target=look, args=(index,), daemon=True) for index in range(len(checks))
    ]
    for thread in threads:
        thread.start()
    timer = threading.Event()
    threading.Thread(target=_join, args=(threads, timer), daemon=True).start()
    timer.wait(limit)
    silent = unknown(f"no answer within {limit:g} s")
    return [
        (check.name, finding or silent)
        for check, finding in zip(checks, list(findings), strict=True)
    ]


def _join(threads: Sequence[threading.Thread], done: threading.Event) -> None:
    for thread in threads:
        thread.join()
    done.set()
