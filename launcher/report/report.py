"""A run's report, from its run directory alone, while it goes on or afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import home
from launcher.api.reach import reaching
from launcher.report import charts, page
from launcher.report.charts import Clock, require_plots
from launcher.report.paragraph import cause_in_words, what_was_lost
from launcher.report.track import Track, thinned
from launcher.run_states import info_of
from launcher.status.accounts import ACCOUNTS, Ledger
from launcher.status.configuration import configured, flat, in_order
from launcher.status.history import History
from launcher.status.ledger import Timeline
from launcher.status.status import read_status
from launcher.words import (
    LOSSES,
    at_clock,
    begun_in_words,
    count,
    dollars,
    metrics_in_words,
    number,
    part,
    saving_in_words,
    span,
    speed_told,
    step_in_words,
    usd_in_words,
)
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import EventReader

CURVES = 12  # metrics that are drawn
PARTS = 48  # of a run's time, in the ledger's picture
TABLED = 100  # rows behind a curve
_SIGN = '<meta name="generator" content="swell report">'


@dataclass(frozen=True)
class Known:
    """All that a report is made from.

    Attributes:
        run: run.json.
        status: as ``swell status --json`` prints it, but for the audit.
        track: what its pictures are drawn from.
        timeline: of its ledger; None where there is none.
        made_at: when it was read, in Unix seconds.
    """

    run: Mapping[str, Any]
    status: Mapping[str, Any]
    track: Track
    timeline: Timeline | None
    made_at: float

    @property
    def clock(self) -> Clock:
        """The axis of time that its pictures share."""
        times = [mark.time for mark in self.track.marks]
        times += [rate.time for rate in self.track.rates]
        if self.timeline is not None:
            times += [self.timeline.start, self.timeline.end]
        return Clock(min(times, default=0.0), max(times, default=1.0))


class Reporter:
    """Reads what a report is made from, again and again; each time only what is new.

    Args:
        run_dir: the run.

    Attributes:
        events: how many were read.

    Raises RunError when it is a newer version's, OSError and ValueError when it cannot be read.
    """

    def __init__(self, run_dir: RunDirectory) -> None:
        self.events = 0
        self._run = home.read_run(run_dir)
        self._run_dir = run_dir
        # Of a hundred thousand steps the pictures take each value; the rest is in their gist.
        self._reader, self._brief = EventReader(run_dir), EventReader(run_dir, brief=True)
        self._history = History()
        self._track = Track(history=self._history)

    def read(self, now: float) -> Known:
        """Returns all that is known by now, in Unix seconds. Raises OSError and ValueError."""
        with reaching(self._run_dir.url):
            brief, events = self._brief.read_new(), self._reader.read_new()
        for event in brief:
            self._history.add(event)
        if brief or events:
            self.events += len(events)
            self._track.add(events)
        track, run = self._track, self._run
        status = read_status(self._run_dir, audited=False, run=run, history=track.history)
        over = bool(info_of(str(status["state"])).ending)
        timeline = Timeline.of(track.history, None if over else now, track.axis)
        return Known(run, status, track, timeline, now)


def read(run_dir: RunDirectory, now: float) -> Known:
    """Reads what a report is made from; see Reporter."""
    return Reporter(run_dir).read(now)


def write(path: Path, text: str) -> None:
    """Writes a report, at once as a whole. Raises OSError."""
    beside = path.with_name(f".{path.name}.{time.time_ns():x}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:  # of the file that was asked for, not of the one beside it
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def is_free(path: Path) -> bool:
    """Whether nothing but an older report would be lost there. Raises OSError."""
    if not path.exists():
        return True
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return _SIGN in file.read(1000)


def html(known: Known) -> str:
    """Returns the report as one HTML page. Raises ReportError where nothing can draw."""
    require_plots()
    run_id = str(known.status["run"])
    return page.document(f"{run_id}: {known.status['state']}", _parts(known, run_id))


def _parts(known: Known, run_id: str) -> Iterator[str]:
    yield page.heading(1, run_id)
    yield facts(known)
    for _, parts in sections(known):
        yield from parts
    at = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(known.made_at))
    yield page.footer(
        f"Made by swell report at {at} from the run directory. Costs are estimates by the price "
        "list of the machine that submitted the run. Whether each sample was used exactly once "
        "is not looked into here: swell status does."
    )


def facts(known: Known) -> str:
    """Returns a run's figures as HTML."""
    return page.facts(_facts(known))


def sections(known: Known) -> Iterator[tuple[str, Iterable[str]]]:
    """Yields the sections of a report, in order: the name of each, and HTML that is made, and its
    pictures drawn, only as it is read."""
    track, clock = known.track, known.clock
    yield "lost", _lost(known.status)
    yield "world", _below("The world over time", lambda: _timeline(track, clock))
    yield "metrics", _curves(known)
    yield "rates", _rates(track, clock)
    yield "ledger", _ledger(known.timeline, clock)
    yield "generations", _generations(known.status)
    yield "checkpoints", _below("Checkpoints", lambda: _checkpoints(track, clock))
    yield "slow", _below("Workers slower than the others", lambda: _slow(track, clock))
    yield "configuration", _below("Configuration", lambda: _configuration(known.run))


def _below(title: str, make: Callable[[], str]) -> Iterator[str]:
    """A heading, and what is made only once it is read."""
    yield page.heading(2, title)
    yield make()


def _configuration(run: Mapping[str, Any]) -> str:
    rows = sorted(flat(configured(run)).items(), key=lambda one: in_order(one[0]))
    return page.table("Configuration", ["field", "value"], rows)


def _lost(status: Mapping[str, Any]) -> Iterator[str]:
    yield page.heading(2, "What was lost, and why")
    yield page.paragraph(what_was_lost(status))
    for trouble in status["troubles"]:
        yield page.paragraph(trouble)
    reason = str(status.get("reason") or "")
    if len(reason.splitlines()) > 1:
        yield page.details("The reason as it was told", page.verbatim(reason))


def _facts(known: Known) -> Iterator[tuple[str, str]]:
    status = known.status
    yield "state", str(status["state"])
    steps = known.track.history.total_steps
    total = "" if steps is None else f" of {steps:,}"
    done = step_in_words(status["step"], status["told_every"])
    yield "steps", "not known" if status["steps_lost"] is None else f"{done}{total}"
    if status["seconds"] is not None:
        yield "time", span(status["seconds"])
    ledger = status["ledger"]
    if ledger is not None and ledger["goodput"]["there"] is not None:
        yield "goodput", f"{part(ledger['goodput']['there'])} of the VMs' time"
        yield "goodput, of wanted", part(ledger["goodput"]["wanted"] or 0.0)
    if ledger is not None:
        spent = ledger["spent"]
        yield "cost", "not known" if spent is None else usd_in_words(spent)
        if saving := saving_in_words(spent, ledger["saving"]):
            yield "against on demand", saving
    of, speed = speed_told(str(status["state"]), status["speed"])
    if speed:
        yield f"speed ({of})", speed
    yield "taken away", f"{status['drains']} with notice, {status['losses']} without"
    yield from [*metrics_in_words(status["metrics"], status["nonfinite"]).items()][:6]


def _timeline(track: Track, clock: Clock) -> str:
    if not track.marks and not track.sizes:
        return page.paragraph("Nothing has happened yet.")
    most = max((size.workers for size in track.sizes), default=0)
    says = (
        f"up to {count(most, 'worker')} trained, in {count(len(track.sizes), 'world')}; "
        f"{count(len(track.marks), 'event')} below, a row for each kind. Between two worlds "
        "nobody trains."
    )
    told = [[since(clock, it.time), at_clock(it.time), it.kind, it.text] for it in track.marks]
    worlds = [
        [since(clock, it.since), since(clock, it.until), f"{it.workers:,}"] for it in track.sizes
    ]
    head = ["since start", "local time", "kind", "what happened"]
    svg = charts.timeline(clock, track.sizes, track.marks)
    numbers = page.table("Worlds", ["from", "until", "workers"], worlds, 1)
    numbers += page.table("Events", head, told)
    return page.picture("The world over time", says, svg, numbers)


def _curves(known: Known) -> Iterator[str]:
    if not known.track.curves:
        return
    yield page.heading(2, "Metrics")
    for place, (name, values) in enumerate([*known.track.curves.items()][:CURVES]):
        yield page.heading(3, name)
        undrawn = known.track.undrawn[name]
        told = f"; {count(undrawn, 'value')} not drawn: no finite number, or beyond 1e100"
        if not values:
            yield page.paragraph(f"There is nothing to draw{told if undrawn else ''}.")
            continue
        first, *_, last = [*values.values()] * 2
        says = (
            f"from {number(first)} to {number(last)} over {count(len(values), 'step')}, at least "
            f"{number(min(values.values()))}, at most {number(max(values.values()))}"
            f"{told if undrawn else ''}"
        )
        at, told_of = [*values], [*values.values()]
        rows = [
            [f"{band.at:,.0f}", *(number(it) for it in (band.least, band.mean, band.most))]
            for band in thinned(at, told_of, TABLED)
        ]
        svg = charts.curve(f"metric{place}", thinned(at, told_of, charts.POINTS))
        numbers = page.table(name, ["around step", "least", "mean", "most"], rows, 4)
        yield page.picture(name, says, svg, numbers)
    if left := [*known.track.curves][CURVES:]:
        yield page.paragraph(f"{len(left)} more are not drawn: {', '.join(left)}")


def _rates(track: Track, clock: Clock) -> Iterator[str]:
    rates = track.rates
    if not rates:
        return
    yield page.heading(2, "Rates")
    times = [it.time for it in rates]
    steps = thinned(times, [it.steps for it in rates], TABLED)
    samples = thinned(times, [it.samples or 0.0 for it in rates], TABLED)
    rows = [
        [since(clock, one.at), number(one.mean), number(two.mean) if two.most else "not told"]
        for one, two in zip(steps, samples, strict=True)
    ]
    fastest, slowest = max(it.steps for it in rates), min(it.steps for it in rates)
    says = f"between {number(slowest)} and {number(fastest)} steps a second while steps came"
    numbers = page.table("Rates", ["since start", "steps/s", "samples/s"], rows, 2)
    yield page.picture("Rates", says, charts.rates(clock, rates), numbers)


def _ledger(timeline: Timeline | None, clock: Clock) -> Iterator[str]:
    yield page.heading(2, "Where the time of the VMs went")
    if timeline is None or not timeline.end > timeline.start:
        yield page.paragraph(
            "There is no ledger: no VM was asked for, or the script does not say which step it is "
            "at (report(step=…), or torchrun.progress)."
        )
        return
    parts = timeline.parts(PARTS)
    whole = timeline.between(timeline.start, timeline.end)
    rows = [_account(whole, name) for name in ACCOUNTS]
    head = ["account", "VM time", "of wanted", "of there", "USD"]
    says = (
        f"{part(whole.goodput or 0.0)} of the time of the VMs that were there was training, "
        f"{part(whole.goodput_of_wanted or 0.0)} of that of those that were wanted"
    )
    numbers = page.table("Ledger", head, rows, 4)
    yield page.picture("Ledger", says, charts.ledger(clock, parts), numbers)
    yield page.heading(2, "Cost against on demand")
    if whole.spent is None or whole.on_demand is None:
        yield page.paragraph("Not known: a machine has no price (docs/job.md, prices).")
        return
    times, spent, full = [timeline.start], [0.0], [0.0]
    for one in parts:
        times.append(one.until)
        spent.append(spent[-1] + (one.spent or 0.0))
        full.append(full[-1] + (one.on_demand or 0.0))
    costs = [
        [since(clock, at), dollars(some), dollars(other)]
        for at, some, other in zip(times, spent, full, strict=True)
    ]
    says = f"{usd_in_words(whole.spent)}; the same training on demand with nothing lost costs "
    says += usd_in_words(whole.on_demand)
    head = ["since start", "spent, USD", "on demand, USD"]
    numbers = page.table("Cost", head, costs, 2)
    yield page.picture("Cost", says, charts.cost(clock, times, spent, full), numbers)


def _account(whole: Ledger, name: Any) -> list[str]:
    seconds, there = whole.seconds[name], name != "absent" and whole.there
    usd = "" if whole.usd is None or name == "absent" else dollars(whole.usd[name])
    of_wanted = part(seconds / whole.wanted) if whole.wanted else "-"
    return [LOSSES[name], span(seconds), of_wanted, part(seconds / there) if there else "", usd]


def _generations(status: Mapping[str, Any]) -> Iterator[str]:
    yield page.heading(2, "Generations and pauses")
    pauses = {one["generation"]: one["seconds"] for one in status["pauses"]}
    rows = [
        [
            str(one["generation"]),
            cause_in_words(str(one["cause"] or "")),
            "?" if one["world_size"] is None else f"{one['world_size']:,}",
            begun_in_words(one.get("step"), status["told_every"]),
            "" if one.get("speed") is None else number(one["speed"]),
            "" if one["generation"] not in pauses else f"{pauses[one['generation']]:.2f} s",
        ]
        for one in status["generations"]
    ]
    if not rows:
        yield page.paragraph("No world has formed.")
        return
    head = ["generation", "cause", "workers", "from step", "steps/s", "pause before"]
    numbers = page.table("Generations", head, rows, 4)
    if not status["pauses"]:
        yield page.paragraph("There was no pause.")
        yield page.details("Generations", numbers)
        return
    total = sum(one["seconds"] for one in status["pauses"])
    says = f"{count(len(pauses), 'pause')}, {span(total)} in all"
    says += f"; the {charts.BARS} longest are drawn" if len(pauses) > charts.BARS else ""
    yield page.picture("Pauses", says, charts.pauses(status["pauses"]), numbers)


def _checkpoints(track: Track, clock: Clock) -> str:
    if not track.saves:
        return page.paragraph("None was written.")
    rows = [
        [
            since(clock, it.time),
            f"{it.step:,}",
            "" if it.bytes is None else f"{it.bytes / 1e6:,.1f}",
            "" if it.seconds is None else f"{it.seconds:.2f}",
        ]
        for it in track.saves
    ]
    head = ["since start", "step", "MB", "seconds"]
    newest = track.saves[-1]
    said = f"{count(len(rows), 'checkpoint')} written; the newest is of step {newest.step:,}, "
    said += f"{since(clock, newest.time)} after the start."
    table = page.table("Checkpoints", head, rows, 3)
    return page.paragraph(said) + page.details("Checkpoints: the numbers", table)


def _slow(track: Track, clock: Clock) -> str:
    if not track.slow:
        return page.paragraph("None was told of.")
    rows = [[since(clock, it.time), it.text] for it in track.slow]
    return page.table("Slow workers", ["since start", "what was told"], rows)


def since(clock: Clock, at: float) -> str:
    """Returns how long after the start a time is."""
    return span(max(0.0, at - clock.start))
