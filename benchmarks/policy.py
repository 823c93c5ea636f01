"""What the launcher's policy is worth: cost and finish time on a real trace, in simulation.

The decisions are the launcher's own (``launcher.supervision``: verdicts, choices, pauses);
Vertex AI and the training are simulated, minute by minute. Two regions have the capacity of the
trace of 64 GCP A100 machines (tests/data/traces), the second one nine hours later; when it is over
it begins again. Of those machines others hold so many (the case); the rest is there for a job of
16 machines that has 20 hours of work for all of them. Each system starts at 18 different times.

What is assumed, beside the trace:

- A job starts when all its machines are there, and runs on with those that are left. Without any
  machine (or, inelastic, without all) it is tried every 5 minutes, and fails with a stockout after
  six tries.
- Training is as fast as there are machines; 5 minutes pass from the machines to the first step, and
  10 s with each change of the world. Fewer than 4 workers do not train.
- A checkpoint every 10 minutes; what came after the last one is lost when all machines are.
- Machines are paid for by the minute while they are there, at the estimates of ``swell plan``; on
  demand there is always one.

Systems: ``swell`` has both regions; ``swell, fallbacks`` also begins with 8 machines where there
are not 16, and on demand when nothing has run for an hour; ``wait`` stays in the first region;
``on demand`` takes no Spot machine; ``inelastic`` has both regions, and starts again from the
checkpoint with all machines whenever it loses one.

``--plot FILE`` (before the other options) draws both figures for all cases.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launcher.emulator.market.traces import read_trace
from launcher.job.job import Job
from launcher.job.machines import MACHINES
from launcher.supervision.attempt import Attempt
from launcher.supervision.choices import Choice, choices_of
from launcher.supervision.policy import End, Situation, Submit, Terms, Wait, decide
from rows import Options, Row, benchmark

TRACE = Path(__file__).parents[1] / "tests/data/traces/gcp-a100-us-east1-b.txt"
MACHINE = "a2-highgpu-1g"
MACHINES_WANTED, FEWEST = 16, 4
WORK = 20.0 * 3600 * MACHINES_WANTED  # machine-seconds
SHIFT = 9 * 3600.0  # seconds by which the second region is later
MINUTE = 60.0
LEAD = 300.0  # seconds from the machines to the first step
PAUSE = 10.0  # seconds without a step when the world changes
CHECKPOINT = 600.0
TRY_EVERY, TRIES = 300.0, 6
LONGEST = 30 * 86_400.0  # a run that takes longer has failed
HELD = {"ample": 36, "tight": 42, "scarce": 46}  # machines of the 64 that others hold
REGIONS = ("us-central1", "us-east1")
COLOURS = ("#1668a8", "#4fb0c6", "#e0912f", "#7a7a7a", "#b5403a")
STOCKOUT = "Resources are insufficient in region"


class Market:
    """How many machines there are for the job, by region and time."""

    def __init__(self, held: int, start: float) -> None:
        samples = read_trace(TRACE)
        self._moments = [moment for moment, _ in samples]
        self._counts = [max(0, count - held) for _, count in samples]
        self._start = start

    def machines(self, choice: Choice, now: float) -> int:
        if choice.job.scheduling.strategy == "standard":
            return choice.job.slots
        shift = SHIFT * REGIONS.index(choice.region)
        moment = (self._start + now - shift) % self._moments[-1]
        return self._counts[bisect_right(self._moments, moment) - 1]


@dataclass
class Training:
    """How far the run is, in machine-seconds, and how much of it is saved."""

    done: float = 0.0
    saved: float = 0.0
    saved_at: float = 0.0

    def train(self, machines: int, seconds: float, now: float) -> None:
        self.done = min(WORK, self.done + machines * max(0.0, seconds))
        if now - self.saved_at >= CHECKPOINT:
            self.save(now)

    def save(self, now: float) -> None:
        self.saved, self.saved_at = self.done, now

    def lose(self) -> None:
        self.done = self.saved


@dataclass
class CustomJob:
    """One simulated CustomJob."""

    choice: Choice
    elastic: bool
    machines: int = 0
    ready_at: float = 0.0  # from when on it trains
    tries: int = 0
    tried_at: float = 0.0

    def minute(self, there: int, training: Training, now: float) -> str | None:
        """Lives for a minute, with ``there`` machines on offer. Returns how it ends, if it does."""
        before, wanted = self.machines, self.choice.job.slots
        if self.machines == 0:
            self.machines = wanted if there >= wanted else 0
            self.ready_at = now + LEAD
        elif self.elastic:
            self.machines = min(wanted, there)
        elif there < wanted:
            self.machines = 0
        if self.machines == 0:
            return self._try(training, before, now)
        if self.machines >= FEWEST:
            changed = bool(before) and self.machines != before
            busy = MINUTE - (PAUSE if changed else 0.0)
            training.train(self.machines, min(busy, now + MINUTE - self.ready_at), now)
        elif before >= FEWEST:
            training.save(now)  # those who are left do, and wait
        return "SUCCEEDED" if training.done >= WORK else None

    def _try(self, training: Training, before: int, now: float) -> str | None:
        if before or not self.tried_at:
            self.tries, self.tried_at = 0, now
            training.lose()
        if now - self.tried_at >= TRY_EVERY:
            self.tries, self.tried_at = self.tries + 1, now
        return "FAILED" if self.tries >= TRIES else None


@dataclass
class Result:
    """What a run took."""

    hours: float = 0.0
    usd: float = 0.0
    attempts: int = 0
    timeline: list[tuple[float, int, str]] = field(default_factory=list)  # hour, machines, where


def job(**fields: Any) -> Job:
    return Job.model_validate(
        {
            "name": "job",
            "task": "my.tasks:Task",
            "pools": [MACHINE, f"{MACHINES_WANTED - 1} x {MACHINE}"],
            "elastic": {"min_workers": FEWEST},
            "regions": list(REGIONS),
            **fields,
        }
    )


@dataclass(frozen=True)
class System:
    """What is compared: a job file, and whether its world may change."""

    job: Job
    elastic: bool = True


SYSTEMS = {
    "swell": System(job()),
    "swell, fallbacks": System(
        job(
            fallback=[
                {"pools": [MACHINE, f"7 x {MACHINE}"]},
                {"strategy": "standard", "after": "1h"},
            ]
        )
    ),
    "wait": System(job(regions=list(REGIONS[:1]))),
    "on demand": System(job(scheduling="standard")),
    "inelastic": System(job(), elastic=False),
}


def simulate(system: System, held: int, start: float, seed: str) -> Result:
    """Returns what a run takes that begins ``start`` seconds into the trace."""
    market, training, result = Market(held, start), Training(), Result()
    choices = tuple(choices_of(system.job, "local"))
    terms = Terms(seed, choices, 0.0, system.job.resubmit, stop_grace=600.0)
    attempts: list[Attempt] = []
    running: CustomJob | None = None
    now = 0.0
    while now < LONGEST:
        if running is None:
            [action] = decide(terms, Situation(tuple(attempts)), now)
            if isinstance(action, End):
                assert action.state == "succeeded", action
                result.hours, result.attempts = now / 3600, len(attempts)
                return result
            if isinstance(action, Submit):
                running = CustomJob(action.choice, system.elastic)
                attempts.append(_record(action, now))
            else:
                assert isinstance(action, Wait), action
        machines, where = 0, ""
        if running is not None:
            end = running.minute(market.machines(running.choice, now), training, now)
            machines, where = running.machines, running.choice.region
            result.usd += machines * _price(running.choice) * MINUTE / 3600
            if machines and attempts[-1].started is None:
                attempts[-1] = replace(attempts[-1], state="RUNNING", started=now)
            if end is not None:
                attempts[-1] = replace(
                    attempts[-1],
                    state=end,
                    reason=STOCKOUT if end == "FAILED" else "",
                    ended=now + MINUTE,
                    step=int(training.done),
                )
                running = None
        result.timeline.append((now / 3600, machines, where))
        now += MINUTE
    raise AssertionError("the run takes longer than a month")


def _record(submit: Submit, now: float) -> Attempt:
    choice = submit.choice
    return Attempt(submit.attempt, choice.region, "x", choice.name, "job", "PENDING", created=now)


def _price(choice: Choice) -> float:
    machine = MACHINES[MACHINE]
    price = machine.on_demand if choice.job.scheduling.strategy == "standard" else machine.spot
    assert price is not None
    return price.usd_per_hour


def starts(options: Options) -> list[float]:
    """The moments of the trace, in seconds, at which runs begin."""
    return [1.5 * 3600 * n for n in range(3 if options.quick else 18)]


def compare(case: str, options: Options) -> Iterator[Row]:
    """Yields the rows of one case."""
    for name, system in SYSTEMS.items():
        runs = [simulate(system, HELD[case], at, f"{case} {at}") for at in starts(options)]
        yield Row.of(name, case, "finished after", "h", [run.hours for run in runs])
        yield Row.of(name, case, "cost", "USD", [run.usd for run in runs])
        yield Row.of(name, case, "attempts", "", [float(run.attempts) for run in runs])


def plot(path: str) -> None:
    """Draws cost against finish time for every start, and what one run of each had when."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    options = Options(quick=False, runs=1)
    colours = dict(zip(SYSTEMS, COLOURS, strict=True))
    figure, (upper, lower) = pyplot.subplots(
        2, len(HELD), figsize=(12, 7.5), height_ratios=(1.4, 1), layout="constrained"
    )
    for case, scatter, timeline in zip(HELD, upper, lower, strict=True):
        for name, system in SYSTEMS.items():
            runs = [simulate(system, HELD[case], at, f"{case} {at}") for at in starts(options)]
            scatter.scatter(
                [run.hours for run in runs],
                [run.usd for run in runs],
                s=22,
                alpha=0.75,
                label=name,
                color=colours[name],
                edgecolors="none",
            )
            if name in ("swell, fallbacks", "wait", "inelastic"):
                run = runs[0]
                timeline.step(
                    [hour for hour, _, _ in run.timeline],
                    [machines for _, machines, _ in run.timeline],
                    where="post",
                    lw=1.4,
                    color=colours[name],
                )
        scatter.set_title(f"{case}: others hold {HELD[case]} of 64")
        scatter.set_xlabel("finished after (h)")
        scatter.set_ylim(bottom=0)
        scatter.set_xlim(left=15)
        timeline.set_xlabel("hours since the launch")
        timeline.set_ylim(-0.5, MACHINES_WANTED + 1)
        timeline.set_xlim(-0.5, 50)
    upper[0].set_ylabel("cost (USD, estimated)")
    lower[0].set_ylabel("machines, first start")
    figure.legend(*upper[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    figure.savefig(path)


CASES = {case: (lambda options, case=case: compare(case, options)) for case in HELD}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--plot"]:
        plot(sys.argv[2])
        del sys.argv[1:3]
        if len(sys.argv) == 1:
            sys.exit(0)
    sys.exit(benchmark(__doc__, CASES))
