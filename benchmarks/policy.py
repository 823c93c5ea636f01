"""What the launcher's policy is worth, and when a fleet is: finish time and cost on real traces.

The decisions are the launcher's own (``launcher.supervision``), and what becomes of a CustomJob is
the emulator's (``cloud.py``); the training is simulated. A run wants 16 machines, for which it has
20 hours of work. Two regions have the capacity of a recorded trace (tests/data/traces), the second
one a third of the trace later; when it is over it begins again. Of its machines others hold so many
(the case); the rest is there for the run. Each system starts at 18 moments, spread over the trace
(at 6 of those that are an hour long).

What is assumed, beside the trace:

- A CustomJob starts when all its machines are there. One without any is tried every 5 minutes, and
  fails with a stockout after six tries. What becomes of a job that loses a machine is not certain
  (docs/architecture.md), so each case has three ``survivors``: its others are kept, it restarts as
  a whole, or it fails.
- 5 minutes pass from a machine to its first step. Fewer than 4 workers do not train.
  ``simulated_run.py`` has what else is assumed of the training.
- Machines are paid for while they are there, at the estimates of ``swell plan``; on demand there is
  always one.

Systems: ``wait`` is one CustomJob that stays in the first region; ``1 job`` has both regions;
``2 jobs`` to ``8 jobs`` are fleets with as many machines together; ``8 jobs, anchor`` has one of
them on demand; ``1 job, fallbacks`` also begins with 8 machines where there are not 16, and on
demand when nothing has run for an hour; ``on demand`` takes no Spot machine. What a run has that is
not elastic is ``1 job`` where it restarts, whatever Vertex AI does.

``as late as waiting`` compares with ``wait`` at the same start. The case ``fleets that stay`` has
those of ``ample, keep`` in the first region alone: what is left of their delay is not due to
moves. In ``who knows`` the launcher learns after ten minutes, by whatever means, that a job has no
machine any more, and gives it up for another region. The case ``six of eight`` is about 8 machines,
of which there are six: after an hour, or from the start.

``--plot JSON PICTURE`` draws what an earlier run has written with ``--json``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from launcher.emulator.jobs.lifecycle import Survivors
from launcher.emulator.market.market import Capacity
from launcher.emulator.market.traces import Samples, read_trace
from launcher.job.job import Job
from rows import Options, Row, benchmark
from simulated_run import LONGEST, Result, simulate

TRACES = Path(__file__).parents[1] / "tests/data/traces"
MACHINE = "a2-highgpu-1g"
WANTED, FEWEST = 16, 4  # machines
WORK = 20.0 * 3600  # seconds with all of them
REGIONS = ("us-central1", "us-east1")
EARLIEST, LATEST = 0.05, 2.0  # in the plot


@dataclass(frozen=True)
class Market:
    """What others leave of a trace, in two regions.

    Attributes:
        trace: the file.
        held: how many machines others hold.
        starts: at how many moments, spread over it, runs begin.
    """

    trace: str
    held: int
    starts: int

    @property
    def period(self) -> float:
        """Seconds after which the trace begins again."""
        return read_trace(TRACES / self.trace)[-1][0] + 60.0

    def capacity(self, start: float) -> Capacity:
        """The machines that there are for a run that begins ``start`` seconds into the trace."""
        later = [self.period / 3 * number for number in range(len(REGIONS))]
        return Capacity(
            {
                (region, MACHINE): self._from(start - shift)
                for region, shift in zip(REGIONS, later, strict=True)
            }
        )

    def _from(self, start: float) -> Samples:
        period, samples = self.period, read_trace(TRACES / self.trace)
        first = math.floor(start / period)
        found: Samples = [(0.0, 0)]
        for turn in range(first, first + math.ceil(LONGEST / period) + 1):
            for moment, count in samples:
                at, left = turn * period + moment - start, max(0, count - self.held)
                if at <= 0:
                    found = [(0.0, left)]
                elif found[-1][1] != left:
                    found.append((at, left))
        return found


GCP = "gcp-a100-us-east1-b.txt"
MARKETS = {
    "ample": Market(GCP, 36, 18),
    "tight": Market(GCP, 42, 18),
    "scarce": Market(GCP, 46, 18),
    "calm hour": Market("aws-p3-1h-high-availability-low-preemption.txt", 12, 6),
    "stormy hour": Market("aws-p3-1h-low-availability-high-preemption.txt", 4, 6),
}


def job(jobs: int = 1, wanted: int = WANTED, **fields: Any) -> Job:
    """A run of ``wanted`` machines as so many CustomJobs."""
    others = wanted // jobs - 1
    return Job.model_validate(
        {
            "name": "job",
            "task": "my.tasks:Task",
            "pools": [MACHINE, *([f"{others} x {MACHINE}"] if others else [])],
            "elastic": {"min_workers": FEWEST},
            "regions": list(REGIONS),
            "fleet": jobs,
            **fields,
        }
    )


def waiting(wanted: int = WANTED) -> Job:
    """A run as one CustomJob that stays where it is."""
    return job(1, wanted, regions=list(REGIONS[:1]))


SYSTEMS = {
    "wait": waiting(),
    "1 job": job(),
    "2 jobs": job(2),
    "4 jobs": job(4),
    "8 jobs": job(8),
    "8 jobs, anchor": job(8, fleet={"jobs": 8, "anchor": 1}),
    "1 job, fallbacks": job(
        fallback=[
            {"pools": [MACHINE, f"7 x {MACHINE}"]},
            {"strategy": "standard", "after": "1h"},
        ]
    ),
    "on demand": job(scheduling="standard"),
}


@cache
def runs(system: str, market: str, survivors: Survivors, quick: bool = False) -> list[Result]:
    """Returns what a system takes from each start."""
    it, work = MARKETS[market], WORK * WANTED
    starts = [it.period * number / it.starts for number in range(3 if quick else it.starts)]
    return [
        simulate(SYSTEMS[system], work, it.capacity(start), survivors, seed)
        for seed, start in enumerate(starts)
    ]


def compare(market: str, survivors: Survivors, options: Options) -> Iterator[Row]:
    """Yields the rows of one case."""
    case = f"{market}, {survivors.value}"
    waited = runs("wait", market, survivors, options.quick)
    for system in SYSTEMS:
        found = runs(system, market, survivors, options.quick)
        pairs = zip(found, waited, strict=True)
        ratios = [a.hours / b.hours if a.hours and b.hours else None for a, b in pairs]
        yield Row.of(system, case, "finished after", "h", [run.hours for run in found])
        yield Row.of(system, case, "as late as waiting", "x", ratios)
        yield Row.of(system, case, "cost", "USD", [run.usd for run in found])
        yield Row.of(system, case, "trained", "%", [100 * run.trained for run in found])
        yield Row.of(system, case, "attempts", "", [float(run.attempts) for run in found])


def against_waiting(
    market: str, options: Options, fleet: Job, knows_after: float | None = None
) -> list[float | None]:
    """Returns how late a run is, as a multiple of waiting, at each start; others are kept."""
    it, survivors = MARKETS[market], Survivors.KEEP
    ratios: list[float | None] = []
    for seed, known in enumerate(runs("wait", market, survivors, options.quick)):
        capacity = it.capacity(it.period * seed / it.starts)
        hours = simulate(fleet, WORK * WANTED, capacity, survivors, seed, knows_after).hours
        ratios.append(hours / known.hours if hours and known.hours else None)
    return ratios


def fleets_that_stay(options: Options) -> Iterator[Row]:
    """Yields how late fleets are that may not move where a fleet does not pay."""
    for jobs in (2, 4, 8):
        ratios = against_waiting("ample", options, job(jobs, regions=list(REGIONS[:1])))
        yield Row.of(f"{jobs} jobs", "ample, keep, one region", "as late as waiting", "x", ratios)


def who_knows(options: Options) -> Iterator[Row]:
    """Yields how late runs are whose launcher knows soon that a job has no machine."""
    for market in ("ample", "tight", "scarce"):
        for jobs in (1, 2, 4, 8):
            ratios = against_waiting(market, options, job(jobs), 600.0)
            name = "1 job" if jobs == 1 else f"{jobs} jobs"
            yield Row.of(name, f"{market}, keep, known", "as late as waiting", "x", ratios)


def six_of_eight(options: Options) -> Iterator[Row]:
    """Yields what becomes of a run of 8 machines where there are six: at once, or after an hour."""
    systems = {"1 job": waiting(8), **{f"{n} jobs": job(n, 8) for n in (2, 4, 8)}}
    for when, vms in {"": [(0.0, 8), (3600.0, 6)], " from the start": [(0.0, 6)]}.items():
        capacity = Capacity({(None, MACHINE): vms})
        for survivors in Survivors:
            case = f"six of eight{when}, {survivors.value}"
            for name, it in systems.items():
                seeds = range(options.runs)
                found = [simulate(it, WORK * 8, capacity, survivors, seed) for seed in seeds]
                last = [float(run.timeline[-1][1]) for run in found]
                yield Row.of(name, case, "machines that train in the end", "", last)
                yield Row.of(name, case, "finished after", "h", [run.hours for run in found])
                yield Row.of(name, case, "trained", "%", [100 * run.trained for run in found])


CASES: dict[str, Callable[[Options], Iterator[Row]]] = {
    **{f"{m}, {s.value}": partial(compare, m, s) for m in MARKETS for s in Survivors},
    "fleets that stay": fleets_that_stay,
    "who knows": who_knows,
    "six of eight": six_of_eight,
}


def plot(figures: Path, path: Path) -> None:
    """Draws the rows of an earlier run: how late each system is beside waiting, and what it costs.

    Args:
        figures: what ``--json`` has written.
        path: the picture.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    found = {(r["case"], r["system"], r["metric"]): r for r in json.loads(figures.read_text())}
    rows, columns, shown = len(Survivors), len(MARKETS), [*SYSTEMS][::-1]
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3.4 * columns, 9), sharex=True, sharey=True, layout="constrained"
    )
    for survivors, panels in zip(Survivors, axes, strict=True):
        for market, panel in zip(MARKETS, panels, strict=True):
            case = f"{market}, {survivors.value}"
            panel.axvspan(1, LATEST, color="#b5403a", alpha=0.1, lw=0)
            for place, system in enumerate(shown):
                late = found[case, system, "as late as waiting"]
                if late["median"] is not None:
                    panel.plot([late["min"], late["max"]], [place] * 2, color="#1668a8", lw=3)
                    panel.plot(late["median"], place, "o", color="#1668a8")
                usd, trained = (found[case, system, of]["median"] for of in ("cost", "trained"))
                note = f"{usd:,.0f} USD, {trained:.0f} %"
                panel.text(EARLIEST * 1.1, place + 0.25, note, fontsize="x-small", color="#555555")
            panel.set_title(f"{market}; survivors: {survivors.value}", fontsize="medium")
            panel.set_xscale("log")
            panel.set_xlim(EARLIEST, LATEST)
            panel.set_ylim(-0.6, len(shown) - 0.1)
            panel.set_yticks(range(len(shown)), shown)
    figure.supxlabel(
        "finished after, as a multiple of waiting in one region, smallest to largest; red: a fleet "
        "that is there does not pay. Cost, and the share of the time in which it trained"
    )
    figure.savefig(path)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plot"]:
        plot(Path(sys.argv[2]), Path(sys.argv[3]))
        sys.exit(0)
    sys.exit(benchmark(__doc__, CASES))
