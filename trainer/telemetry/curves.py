"""What a run's events say as curves: numbers by step, and what happened, in text. Pure.

A step is told once. Where the run goes back, to a checkpoint or because nobody held more, the curve
goes back, too: a point says so (``again``), and what was told of its step and of those after it
does not count any more. What happened is never taken back: it stands at the furthest step that was
known then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainer.rundir.batches import Event
from trainer.rundir.numbers import number_in, numbers_in

TEXT_LIMIT = 2000  # characters of one event
TRAIN, EVAL, RATE, WORLD, TIME = "train", "eval", "rate", "world", "time"  # what names begin with

# Events that are told as texts. The others are numbers, or news to nobody who looks at curves.
NOTED = frozenset(
    (
        *("attempt_started", "attempt_ended", "attempt_replaced", "stockout", "moved", "wanted"),
        *("leader_changed", "member_joined", "drain", "loss", "resumed", "waiting", "held_up"),
        *("standstill", "stalled", "straggler", "unfit", "unreachable", "fault", "begun"),
        *("worker_replaced", "nonfinite", "micro_batch_halved", "rank_failed", "resized"),
        *("checkpoint_rejected", "checkpoint_failed", "checkpoint_skipped", "no_best"),
        *("audit_failed", "store_unavailable", "agent_failed", "task_failed", "stop_asked"),
        *("telemetry_failed", "no_group", "gpu_error", "unsaved_files", "finished"),
    )
)


@dataclass(frozen=True)
class Span:
    """A time in which something went on.

    Attributes:
        name: what.
        start, end: in Unix seconds.
        about: what is known of it.
        parts: what it consisted of.
        notes: what happened meanwhile, and when.
    """

    name: str
    start: float
    end: float
    about: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Span, ...] = ()
    notes: tuple[tuple[float, str], ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Span:
        """The inverse of dataclasses.asdict."""
        parts = tuple(cls.from_json(one) for one in value["parts"])
        notes = tuple((time, what) for time, what in value["notes"])
        return cls(**{**value, "parts": parts, "notes": notes})


@dataclass(frozen=True)
class Point:
    """What is told at one step.

    Attributes:
        step: steps completed.
        time: Unix seconds.
        values: numbers, by name; such as are not finite among them.
        texts: what happened, by the name of the event.
        again: whether this step, and those after it, are told anew from here on.
        span: what went on from when to when, and ended with this step.
    """

    step: int
    time: float
    values: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    again: bool = False
    span: Span | None = None


@dataclass
class Curves:
    """How far the curves of a run are. Its fields are plain: with them another goes on.

    Attributes:
        step: the newest that was told.
        furthest: the highest that was ever told.
        generation: of that step.
        world_size: of the newest world.
        flops: operations that a sample takes; 0 where nobody knows.
    """

    step: int = 0
    furthest: int = 0
    generation: int = 0
    world_size: int = 0
    flops: float = 0.0

    @classmethod
    def from_json(cls, value: Any) -> Curves:
        """The inverse of ``to_json``; Raises ValueError for what that never returns."""
        known = asdict(cls())
        whole = isinstance(value, dict) and value.keys() == known.keys()
        if not whole or any(number_in(one) is None or not one >= 0 for one in value.values()):
            raise ValueError("these are no curves")
        return cls(**{name: type(known[name])(one) for name, one in value.items()})

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def take(self, events: Iterable[Event]) -> Iterator[Point]:
        """Yields what is to be told of events, which come in order of time."""
        for event in events:
            match event["event"]:
                case "steps":
                    yield from self._steps(event)
                case "evaluated":
                    found = numbers_in(event.get("metrics"))
                    values = {f"{EVAL}/{name}": value for name, value in found.items()}
                    yield from self._at(event, values | _numbers(event, {"seconds": TIME}, EVAL))
                case "checkpoint_committed":
                    yield from self._at(event, _numbers(event, {"seconds": TIME}, "checkpoint"))
                case "rates":
                    self.flops = max(0.0, number_in(event.get("flops")) or 0.0)
                case "resumed":
                    self.world_size = _whole(event.get("world_size")) or self.world_size
                    yield from self._at(event, _numbers(event, {"seconds": TIME}, "re_forming"))
            if event["event"] in NOTED:
                texts = {event["event"]: _text(event)}
                yield Point(self.furthest, float(event["time"]), texts=texts)

    def _steps(self, event: Event) -> Iterator[Point]:
        metrics = event.get("metrics")
        series = {
            str(name): values
            for name, values in (metrics.items() if isinstance(metrics, dict) else ())
            if isinstance(values, list)
        }
        first, generation = _whole(event.get("first")), _whole(event.get("generation")) or 0
        count = max([_whole(event.get("count")) or 0, *map(len, series.values())])
        if not first or not count or generation < self.generation:
            return  # what an earlier world reported late is told by the one that went on
        last = first + count - 1
        again = generation > self.generation and first <= self.step
        self.generation = generation
        if again:
            self.step = first - 1
        seconds = number_in(event.get("seconds")) or 0.0
        end = float(event["time"]) - max(0.0, number_in(event.get("age")) or 0.0)
        for step in range(max(first, self.step + 1), last + 1):
            values = {}
            for name, of in series.items():
                place = step - (last - len(of) + 1)
                if place >= 0 and (value := number_in(of[place])) is not None:
                    values[f"{TRAIN}/{name}"] = float(value)
            if step == last:
                values |= self._rates(event, count, seconds)
            yield Point(step, end - (last - step) * seconds / count, values, again=again)
            again = False
        self.step = max(self.step, last)
        self.furthest = max(self.furthest, self.step)

    def _rates(self, event: Event, count: int, seconds: float) -> dict[str, float]:
        """How fast the steps of an event were, and in which world."""
        found = {f"{WORLD}/generation": float(self.generation)}
        if self.world_size:
            found[f"{WORLD}/size"] = float(self.world_size)
        if seconds <= 0:
            return found
        found[f"{RATE}/steps_per_second"] = count / seconds
        samples = number_in(event.get("samples"))
        if samples is not None and samples > 0:
            found[f"{RATE}/samples_per_second"] = samples / seconds
            if self.flops:
                found[f"{RATE}/flops_per_second"] = self.flops * samples / seconds
        accounts = numbers_in(event.get("accounts"))
        whole = accounts.pop("all", 0.0)
        if whole > 0:
            found |= {f"{TIME}/part_{name}": spent / whole for name, spent in accounts.items()}
        return found

    def _at(self, event: Event, values: dict[str, float]) -> Iterator[Point]:
        step = _whole(event.get("step"))
        if values and step is not None:
            yield Point(step, float(event["time"]), values)


def _whole(value: object) -> int | None:
    known = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if known else None  # type: ignore[return-value]


def _numbers(event: Event, names: Mapping[str, str], of: str) -> dict[str, float]:
    """Fields of an event as values, each under a group of names."""
    found = ((group, number_in(event.get(name)), name) for name, group in names.items())
    return {f"{group}/{of}_{name}": float(it) for group, it, name in found if it is not None}


def _text(event: Event) -> str:
    """What an event says, as Markdown: a line for each field."""
    told = [f"- {name}: {value}" for name, value in event.items() if name not in ("event", "time")]
    return "\n".join([f"**{event['event']}**", "", *told])[:TEXT_LIMIT]
