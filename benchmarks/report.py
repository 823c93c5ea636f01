"""How long ``swell report`` takes for a run of 1,000 VMs and 100,000 events, on a disk.

The run is that of ``goodput.py``, with fewer steps: 98,000 are reported one by one, and 36 worlds
of 1,000 names form. ``command`` is the whole command, which writes the page with its pictures, and
``read`` what it reads for it: all events, and what is folded from them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from goodput import VMS, command, fill

from launcher.report import report
from rows import Case, Options, Row, benchmark
from trainer.rundir.directory import RunDirectory

STEPS, QUICK = 98_000, 5_000


def of_a_large_run(options: Options) -> Iterator[Row]:
    """A run of three days on 1,000 VMs."""
    steps = QUICK if options.quick else STEPS
    case = f"{VMS:,} VMs, {steps:,} steps"
    with tempfile.TemporaryDirectory(prefix="swell-report-") as name:
        run_dir = RunDirectory(f"{name}/run")
        fill(run_dir, steps)
        page = Path(name) / "report.html"
        clocks, cpus, reading = [], [], []
        for _ in range(options.runs):
            page.unlink(missing_ok=True)
            wall, cpu = command(Path(name), "report", run_dir.url, "--output", str(page))
            assert page.stat().st_size > 100_000
            clocks.append(wall)
            cpus.append(cpu)
            began = time.process_time()
            assert report.read(run_dir, time.time()).track.history.step == steps
            reading.append(time.process_time() - began)
        yield Row.of("swell", case, "command", "s", clocks)
        yield Row.of("swell", case, "command, processor time", "s", cpus)
        yield Row.of("swell", case, "read, processor time", "s", reading)


CASES: Mapping[str, Case] = {"large": of_a_large_run}

if __name__ == "__main__":
    sys.exit(benchmark(__doc__, CASES))
