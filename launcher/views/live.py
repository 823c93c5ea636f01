"""What a person sees while a run is going: a live view, or plain lines without a terminal."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launcher.records import EventRecord
from launcher.run_states import info_of
from launcher.status.history import History
from launcher.status.ledger import axis_of, ledger_of
from launcher.status.pace import mean_speed
from launcher.status.status import Outcome, live_of, state_of
from launcher.status.waits import Telling, Wait
from launcher.words import (
    at_clock,
    count,
    goodput_in_words,
    line_of,
    metrics_in_words,
    one_line,
    span,
    speed_told,
    step_in_words,
)
from trainer.rundir.events import Event
from trainer.rundir.numbers import number_in

LEDGER_EVERY = 5.0  # seconds between two ledgers: of a large run, one takes a while
RECENT = 6  # things that just happened
TOLD = 2000  # lines that are kept
PROGRESS_EVERY = 10.0  # seconds between two plain progress lines
# Frequent, and shown better by the rest of the view.
QUIET = frozenset({"steps", "evaluated", "checkpoint_committed", "leader_changed", "paused"})
SIGNS = {
    "active": ("●", "green"),
    "ready": ("◐", "cyan"),
    "joining": ("○", "cyan"),
    "draining": ("◌", "yellow"),
    "lost": ("✕", "red"),
    "away": ("·", "dim"),
}
_BAR = 10  # columns of a bar, at least
_BLOCKS, _CROSS = "▁▂▃▄▅▆▇█", "✕"


class Scene:
    """What a view shows: the run's history, and the lines of what just happened.

    Args:
        run_id: the run's id.
        replicas: the names of a job's replicas, in order.
        started: when the run was created, in Unix seconds.
        jobs: how many jobs of a fleet are wanted at a time; 0 where there is ever one.
        launches: whether it is shown by the process that launches it.
    """

    def __init__(
        self,
        run_id: str,
        replicas: list[str],
        started: float,
        jobs: int = 0,
        launches: bool = False,
    ) -> None:
        self.run_id = run_id
        self.started = started
        self.jobs = jobs
        self._launches = launches
        self._came: set[tuple[str | None, str | None]] = set()  # members, in their incarnations
        self._unled: Wait | None = None  # what it waits for while nobody leads it
        self.live: dict[int, str] = {}  # the states of the attempts that are not over
        self._replicas = replicas
        self.state = "queued"
        self.history = History()
        self.told: deque[tuple[float, str]] = deque(maxlen=TOLD)
        self.losses: deque[float] = deque(maxlen=600)
        self._ledger: tuple[float, dict[str, Any] | None] = (-math.inf, None)  # when, and what
        self._telling = Telling()
        self._mean: dict[str, float | None] | None = None  # the speed of all of it
        self._said = ""  # the last line: what happens again and again is worth one
        self._plotted = 0  # the last step in losses
        self._unsaved: set[int | None] = set()  # steps that could not be saved

    def add(self, events: list[Event]) -> list[tuple[float, str]]:
        """Takes in new events. Returns the lines that they are worth, with their times."""
        lines = []
        self._mean = None
        for event in events:
            self.history.add(event)
            record = EventRecord.of(event)
            if record.event == "steps" and record.metrics:
                self._add_losses(record.first, record.count, record.metrics.get("loss"))
            if record.event == "wanted" and record.jobs is not None:
                self.jobs = record.jobs
            line = None if record.event in QUIET else line_of(event)
            if record.event == "member_joined":
                line = self._joined(record)
            if record.event == "checkpoint_failed":  # each of its ranks may say so
                line = None if record.step in self._unsaved else line
                self._unsaved.add(record.step)
            if line and line != self._said:
                self._said = line
                lines.append((record.time, line))
        lines.sort(key=lambda one: one[0])  # they come from several writers
        self.told.extend(lines)
        return lines

    def _joined(self, record: EventRecord) -> str | None:
        """That a machine has come, once there was a world: at the start all do."""
        member = record.member, record.incarnation
        if record.member is None or member in self._came:  # it has only gone over to a leader
            return None
        self._came.add(member)
        return f"{record.member} has come" if self.history.generations else None

    @property
    def recent(self) -> list[tuple[float, str]]:
        """The lines of what just happened, with their times."""
        return [*self.told][-RECENT:]

    def know(self, attempts: list[dict[str, Any]], outcome: Outcome | None) -> None:
        """Takes in how the attempts are, and how the run ended, if it has."""
        self.live = {it["attempt"]: str(it["state"]).lower() for it in live_of(attempts)}
        self.state = state_of(self.history, attempts, outcome)
        self._unled = None if outcome else self.history.unled(attempts, self.started)

    def unled(self, now: float) -> str | None:
        """What it waits for at a time while nobody leads it, in words."""
        wait = self._unled
        return None if wait is None else wait.in_words(now, advised=not self._launches)

    def unled_is_due(self, now: float) -> bool:
        """Whether that is worth a line now. It counts as told then."""
        return self._unled is not None and self._telling.is_due(self._unled, now)

    def ledger(self, now: float) -> dict[str, Any] | None:
        """Where the VMs' time went until a few seconds ago; None before any step."""
        if self._ledger[1] is None or abs(now - self._ledger[0]) >= LEDGER_EVERY:
            stepped = any(one.stretches for one in self.history.generations.values())
            ledger = ledger_of(self.history, now) if stepped else None
            self._ledger = now, None if ledger is None else ledger.to_json()
        return self._ledger[1]

    @property
    def speed(self) -> dict[str, float | None]:
        """That of the newest steps, or, once the run is over, of all of it."""
        if not info_of(self.state).ending:
            return self.history.speed
        if self._mean is None:
            self._mean = mean_speed(self.history, axis_of(self.history))
        return self._mean

    @property
    def replicas(self) -> list[str]:
        """The names of all replicas that there are to be, in order; a fleet's say of which job."""
        if not self.jobs:
            return self._replicas
        return [f"{job}/{name}" for job in self.live for name in self._replicas]

    @property
    def states(self) -> dict[str, str]:
        """The state of each of them, by name. Of a run that is over no machine is left."""
        members = {} if info_of(self.state).ending else self.history.members
        return {name: members.get(name, "away") for name in self.replicas}

    def _add_losses(self, first: int | None, count: int | None, values: object) -> None:
        if first is None or not isinstance(values, list):
            return
        last = first + max(count or 0, len(values)) - 1
        new = values[max(0, len(values) - max(0, last - self._plotted)) :]  # perhaps told before
        self.losses.extend(v for v in map(number_in, new) if v is not None)
        self._plotted = max(self._plotted, last)


def render(
    scene: Scene, now: float, width: int, more: Iterable[tuple[str, RenderableType]] = ()
) -> RenderableType:
    """Returns the live view of ``scene``, ``width`` columns wide; ``more`` are further rows."""
    history = scene.history
    head = Table.grid(expand=True)
    head.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    head.add_column(justify="right", no_wrap=True)
    head.add_row(
        Text.assemble(("swell ", "bold blue"), (scene.run_id, "bold")),
        Text.assemble(
            (scene.state, f"bold {info_of(scene.state).colour}"),
            f"  {span(max(0.0, now - scene.started))}",
        ),
    )
    body = Table.grid(padding=(0, 2, 0, 0))
    body.add_column(style="dim", width=9, no_wrap=True)
    body.add_column(ratio=1)
    for name, row in _step(scene, width - 12):
        body.add_row(name, row)
    if history.metrics:
        body.add_row("metrics", _metrics(scene))
    if ledger := scene.ledger(now):
        said = Text(goodput_in_words(ledger), overflow="ellipsis", no_wrap=True)
        body.add_row("goodput", said)
    body.add_row("world", _world(scene, now))
    if scene.jobs:
        body.add_row("jobs", _jobs(scene))
    body.add_row("replicas", _replicas(scene, width - 12))
    for name, what in more:
        body.add_row(name, what)
    happened = Table.grid(padding=(0, 2, 0, 0))
    happened.add_column(style="dim", min_width=9, no_wrap=True)
    happened.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for at, line in scene.recent:
        happened.add_row(at_clock(at), Text(line))
    blank = [Text("")] * (RECENT - len(scene.recent))  # so that the view keeps its height
    rule = Text("─" * width, style="dim")
    return Group(head, rule, body, rule, happened, *blank)


def _step(scene: Scene, width: int) -> Iterator[tuple[str, RenderableType]]:
    """How far it is, and how fast: in a line of its own where there is no room beside a bar."""
    history, over = scene.history, bool(info_of(scene.state).ending)
    of, speed = speed_told(scene.state, scene.speed)
    total, speed = history.total_steps, f"{speed} ({of})" if speed and over else speed
    if not total:
        yield "step", Text(f"{step_in_words(history.step, history.told_every)}   {speed}".rstrip())
        return
    label = f"{history.step:,} of {total:,}  "
    beside = len(label) + _BAR + 3 + len(speed) <= width
    below, speed = ("", f"   {speed}" if speed else "") if beside else (speed, "")
    line = Table.grid()
    for _ in range(3):
        line.add_column(no_wrap=True)
    left = width - len(label) - len(speed)
    line.add_row(label, ProgressBar(total, history.step, width=max(_BAR, min(50, left))), speed)
    yield "step", line
    if below:
        yield "speed", Text(below, overflow="ellipsis", no_wrap=True)


def _metrics(scene: Scene) -> Text:
    parts = [f"{one_line(name, 30)} {value}" for name, value in _in_words(scene.history)]
    text = Text(overflow="ellipsis", no_wrap=True)
    if len(scene.losses) > 1:
        text.append(sparkline(list(scene.losses), 16) + "  ", style="cyan")
    return text.append("   ".join(parts[:6]))


def _in_words(history: History) -> Iterable[tuple[str, str]]:
    return metrics_in_words(history.metrics, history.nonfinite).items()


def _world(scene: Scene, now: float) -> Text:
    history, current = scene.history, scene.history.current
    if (said := scene.unled(now)) is not None:
        return Text(said, style="yellow", overflow="ellipsis", no_wrap=True)
    if current is None or current.world_size is None:
        return Text("not formed yet; the first generation waits for its workers", style="dim")
    if history.waiting:
        there = history.newest_of.get("waiting")
        text = Text("none: waiting for machines", style="yellow")
        if there is not None and there.slots is not None and there.min_workers is not None:
            text.append(f", {there.slots} of at least {count(there.min_workers, 'worker')}")
    else:
        text = Text(count(current.world_size, "worker"), style="bold")
        text.append(f"   generation {current.generation}", style="not bold")
    gone = history.drains + history.losses
    if gone:
        text.append(f"   {history.drains} drained, {history.losses} lost", style="not bold")
        text.append(f"   {count(history.steps_lost, 'step')} lost", style="not bold")
    return text


def _jobs(scene: Scene) -> Text:
    """How many of the jobs run, and how the others are."""
    others = {job: state for job, state in scene.live.items() if state != "running"}
    text = Text(f"{len(scene.live) - len(others)} of {scene.jobs} running", style="bold")
    for job, state in others.items():
        text.append(f"   attempt {job} {state}", style="not bold")
    return text


def _replicas(scene: Scene, width: int) -> RenderableType:
    states = scene.states
    cell = max((len(name) for name in states), default=0) + 4
    if len(states) > 16:  # more than fits: how many are in which state
        tally: dict[str, int] = {}
        for state in states.values():
            tally[state] = tally.get(state, 0) + 1
        return Text("   ".join(f"{n} {state}" for state, n in sorted(tally.items())))
    table = Table.grid(padding=(0, 2, 0, 0))
    columns = max(1, min(len(states), width // cell))
    for _ in range(columns):
        table.add_column(no_wrap=True)
    row: list[Text] = []
    for name, state in states.items():
        sign, colour = SIGNS[state]
        row.append(Text.assemble((sign, colour), " ", (name, "" if state == "active" else "dim")))
        if len(row) == columns:
            table.add_row(*row)
            row = []
    if row:
        table.add_row(*row)
    return table


def sparkline(values: list[float], width: int) -> str:
    """Returns ``values`` as ``width`` little bars, each the mean of its share of them.

    A share in which one is no finite number is a cross.
    """
    largest = max((abs(one) for one in values if math.isfinite(one)), default=0.0)
    exponent = -math.frexp(largest)[1]  # so that no sum and no quotient is beyond all numbers
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)] if width else []
    scaled = [math.ldexp(one, exponent) for one in values]
    shares = [scaled[a:b] for a, b in itertools.pairwise(edges)]
    means = [sum(share) / len(share) for share in shares]
    known = [mean for mean in means if math.isfinite(mean)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        _BLOCKS[round((mean - low) * scale)] if math.isfinite(mean) else _CROSS for mean in means
    )


class View(Protocol):
    """Shows a run as it goes on."""

    def update(
        self, events: list[Event], attempts: list[dict[str, Any]], outcome: Outcome | None
    ) -> None:
        """Takes in new events, all attempts, and how the run ended, if it has."""

    def show(self, line: str) -> None:
        """Shows one line of the launcher's own."""


class LiveView:
    """Redraws itself in place on a terminal."""

    def __init__(
        self,
        console: Console,
        scene: Scene,
        clock: Callable[[], float] = time.time,
        draw: Callable[[Scene, float, int], RenderableType] = render,
    ) -> None:
        self._draw = draw
        self._lock = threading.Lock()
        self._console = console
        self._scene = scene
        self._clock = clock
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=4, transient=True
        )

    def _render(self) -> RenderableType:
        with self._lock:
            return self._draw(self._scene, self._clock(), self._console.width)

    def update(
        self, events: list[Event], attempts: list[dict[str, Any]], outcome: Outcome | None
    ) -> None:
        """See View."""
        with self._lock:  # rich draws in a thread
            self._scene.add(events)
            self._scene.know(attempts, outcome)

    def show(self, line: str) -> None:
        """See View."""
        self._live.console.print(Text(line))

    def redraw(self) -> None:
        """Draws it now: what is to be seen is another thing."""
        self._live.refresh()

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class PlainView:
    """Prints a line for what happens: for files and pipes."""

    def __init__(
        self,
        write: Callable[[str], None],
        scene: Scene,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._write = write
        self._scene = scene
        self._clock = clock
        self._said_progress = clock()
        self._said_step = 0

    def update(
        self, events: list[Event], attempts: list[dict[str, Any]], outcome: Outcome | None
    ) -> None:
        """See View."""
        for at, line in self._scene.add(events):
            self._write(f"{at_clock(at)}  {line}")
        self._scene.know(attempts, outcome)
        history, now = self._scene.history, self._clock()
        if self._scene.unled_is_due(now):
            self._write(f"{at_clock(now)}  {self._scene.unled(now)}")
        over = bool(info_of(self._scene.state).ending)  # then the summary follows
        new = history.step > self._said_step and not over
        if new and now - self._said_progress >= PROGRESS_EVERY:
            self._said_progress, self._said_step = now, history.step
            total = f" of {history.total_steps:,}" if history.total_steps else ""
            shown = [f"{name} {value}" for name, value in _in_words(history)]
            self._write(
                f"{at_clock(now)}  "
                + one_line(", ".join([f"step {history.step:,}{total}", *shown]))
            )

    def show(self, line: str) -> None:
        """See View."""
        self._write(line)

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to be undone."""
