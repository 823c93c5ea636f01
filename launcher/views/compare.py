"""What ``swell compare`` prints: runs side by side, what differs in their jobs first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from launcher.status.configuration import differences
from launcher.views.output import print_wide
from launcher.words import (
    CENT,
    LOSSES,
    dollars,
    number,
    one_line,
    part,
    saving_in_words,
    span,
    speed_told,
    step_in_words,
)

MOST = 8  # runs that have room beside each other
NONE = "-"  # not known, or not there


class Compared(NamedTuple):
    """One of the runs: its job as run.json has it, and its status."""

    spec: object
    status: Mapping[str, Any]


def to_json(runs: Sequence[Compared]) -> dict[str, Any]:
    """Returns the fields that differ, and the figures, each with a value for every run.

    Args:
        runs: in the order in which they are to stand.
    """
    return {
        "runs": [one.status["run"] for one in runs],
        "configuration": differences([one.spec for one in runs]),
        "figures": {name: list(values) for name, values in figures(runs)},
    }


def figures(runs: Sequence[Compared]) -> Iterator[tuple[str, tuple[str | None, ...]]]:
    """Yields each figure's name and what it is in every run, in words; None where nobody knows it.

    Figures that no run has are left out.
    """
    each = [dict(_figures(one.status)) for one in runs]
    for name in dict.fromkeys(name for one in each for name in one):
        values = tuple(one.get(name) for one in each)
        if any(value is not None for value in values):
            yield name, values


def print_compared(console: Console, runs: Sequence[Compared]) -> None:
    """Prints runs side by side; into a file or pipe without control codes, cuts and padding.

    Args:
        console: where to.
        runs: in the order in which they are to stand.
    """
    names = [str(one.status["run"]) for one in runs]
    differing = differences([one.spec for one in runs])
    if differing:
        print_wide(console, _table("differs in the job", names, differing.items()))
    else:
        console.print("The jobs do not differ.")
    console.print()
    print_wide(console, _table("figure", names, figures(runs)))


def _table(what: str, names: Sequence[str], rows: Any) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(what, style="dim", no_wrap=True)
    for name in names:
        table.add_column(name, no_wrap=True)
    for name, values in rows:
        told = [Text(NONE if value is None else one_line(value, 60)) for value in values]
        table.add_row(one_line(name, 60), *told)
    return table


def _figures(status: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "state", str(status["state"])
    known = status["steps_lost"] is not None
    yield "time", None if status["seconds"] is None else span(status["seconds"])
    yield "steps", step_in_words(status["step"], status["told_every"]) if known else None
    yield "steps done again", f"{status['steps_lost']:,}" if known else None
    unsaved = status["steps_unsaved"]
    yield "steps in no checkpoint", f"{unsaved:,}" if known and unsaved is not None else None
    yield "steps left out", f"{status['steps_left_out']:,}"
    yield "taken with notice", f"{status['drains']:,}"
    yield "lost without", f"{status['losses']:,}"
    pauses = [one["seconds"] for one in status["pauses"]]
    yield "pauses", f"{len(pauses):,}"
    yield "paused", span(sum(pauses)) if pauses else None
    yield "longest pause", span(max(pauses)) if pauses else None
    of, _ = speed_told(str(status["state"]), status["speed"])
    for name in ("steps", "samples", "tokens"):
        rate = status["speed"][name]
        yield f"{name}/s ({of})", None if rate is None else number(rate)
    yield from _ledger(status["ledger"])
    for name, value in sorted(status["metrics"].items()):
        since = status["nonfinite"].get(name)
        told = number(value) + ("" if since is None else f" (since step {since:,})")
        yield f"metric {one_line(name, 40)}", told


def _ledger(ledger: Mapping[str, Any] | None) -> Iterator[tuple[str, str | None]]:
    if ledger is None:
        return
    yield "VM time wanted", span(ledger["wanted"])
    yield "VM time there", span(ledger["there"])
    for of, name in (("there", "goodput"), ("wanted", "of wanted"), ("usd", "of USD")):
        share = ledger["goodput"][of]
        if of == "usd" and (ledger["spent"] or 0.0) < CENT:
            share = None
        yield name, None if share is None else part(share)
    for name, seconds in ledger["seconds"].items():
        yield LOSSES[name], span(seconds)
    for name, key in (("USD, about", "spent"), ("USD on demand", "on_demand")):
        yield name, None if ledger[key] is None else dollars(ledger[key])
    yield "against on demand", saving_in_words(ledger["spent"], ledger["saving"])
