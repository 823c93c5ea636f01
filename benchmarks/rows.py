"""What all benchmarks share: their command line, and rows of one form.

    NAME.py [--quick] [--only CASE] [--runs N] [--json FILE]

A benchmark is a dictionary of cases; each measures, and yields rows. See ``steady.py``
for one that is short.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        system: who was measured, such as ``swell`` or ``torchrun``.
        case: what happened to it, such as ``drain``.
        metric: what the figure is, such as ``to the next step``.
        unit: ``s``, ``steps``, ``MiB``, ``x`` for a ratio and so on.
        median, min, max: over the runs; None when no run gave the figure.
        runs: how many gave it.
    """

    system: str
    case: str
    metric: str
    unit: str
    median: float | None
    min: float | None
    max: float | None
    runs: int

    @classmethod
    def of(
        cls, system: str, case: str, metric: str, unit: str, values: Iterable[float | None]
    ) -> Row:
        """The row of the runs' ``values``; None stands for a run that gave no figure."""
        known = [float(value) for value in values if value is not None]
        if not known:
            return cls(system, case, metric, unit, None, None, None, 0)
        median = statistics.median(known)
        return cls(system, case, metric, unit, median, min(known), max(known), len(known))


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line.

    Attributes:
        quick: whether to show only that the benchmark works.
        runs: how often to repeat each measurement.
    """

    quick: bool
    runs: int


Case = Callable[[Options], Iterable[Row]]


def benchmark(doc: str | None, cases: Mapping[str, Case], runs: int = 5) -> int:
    """Runs the cases that the command line asks for, in order; prints their rows as a table.

    Rows are printed, and written to the JSON file (as one list of objects), whenever a case is
    done. A case that raises is told of, and the others still run.

    Args:
        doc: the script's docstring; its first line is the description.
        cases: what can be measured, by name.
        runs: how often each measurement is repeated, unless ``--runs`` or ``--quick`` says else.

    Returns the exit code: 0, or 1 when a case failed.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one run of each, small sizes")
    parser.add_argument(
        "--only",
        action="append",
        choices=list(cases),
        metavar="CASE",
        help=f"measure this alone; may be repeated: {', '.join(cases)}",
    )
    parser.add_argument(
        "--runs", type=_positive, help=f"repetitions of each measurement (default {runs}, quick 1)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, too")
    args = parser.parse_args()
    options = Options(args.quick, args.runs or (1 if args.quick else runs))
    # A case that is broken off ends the processes that it has started.
    before = signal.signal(signal.SIGTERM, _end)
    try:
        return _measure(args, options, cases)
    finally:
        signal.signal(signal.SIGTERM, before)


def _measure(args: argparse.Namespace, options: Options, cases: Mapping[str, Case]) -> int:
    failed = False
    rows: list[Row] = []
    for name in args.only or cases:
        found: list[Row] = []
        try:
            found.extend(cases[name](options))
        except Exception:  # the other cases' figures are worth having
            failed = True
            print(f"the case {name} failed:", file=sys.stderr)
            traceback.print_exc()
        show(found)
        rows.extend(found)
        if args.json is not None:
            _write(args.json, rows)
    return int(failed)


def show(rows: Iterable[Row]) -> None:
    """Prints rows as a table on standard output."""
    table = Table()
    for heading in ("system", "case", "metric"):
        table.add_column(heading)
    for heading in ("median", "min", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit")
    table.add_column("runs", justify="right")
    for row in rows:
        figures = [_figure(value) for value in (row.median, row.min, row.max)]
        table.add_row(row.system, row.case, row.metric, *figures, row.unit, str(row.runs))
    if table.row_count:
        # Not cut to 80 columns when the output goes to a file.
        Console(width=None if sys.stdout.isatty() else 120).print(table)


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: what follows is the end
    raise SystemExit(128 + signal.SIGTERM)


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of runs")
    return int(text)


def _write(path: Path, rows: list[Row]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    os.replace(part, path)
