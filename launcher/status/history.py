"""A run's history, folded from its events.

Events come from several machines: what does not have the documented form is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from launcher.records import EventRecord
from trainer.rundir.events import Event
from trainer.rundir.numbers import number_in

ONE_NOTICE = 15.0  # seconds in which no replica is given notice twice


@dataclass
class Generation:
    """One formation of the world, as far as its events are known."""

    generation: int
    world_size: int | None = None
    cause: str | None = None
    at: float | None = None
    members: list[str] = field(default_factory=list)
    start: int | None = None  # steps completed when it began; None when it never did
    last: int = 0  # steps completed at its newest report
    pause: float | None = None  # seconds since the world before it stood still


class History:
    """The fold of a run's events. ``add`` each one once; their order matters little."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.generations: dict[int, Generation] = {}
        self.drains = 0
        self._drained: dict[str, float] = {}  # when each replica was drained last
        self.losses = 0
        self.steps_lost = 0
        self._left_out: set[int] = set()  # steps
        self.total_steps: int | None = None
        self.waiting = False
        self.unreadable: str | None = None  # why some events could not be read
        self.members: dict[str, str] = {}  # replica → its state: joining, ready, active, …
        self._saved: tuple[float, int] | None = None  # when, and which step
        self._unsaved: dict[int, tuple[float, str]] = {}  # by step: when, and why not
        self._metrics: dict[str, tuple[int, int, float]] = {}
        self._finite: dict[str, tuple[int, int]] = {}  # the newest step of which it was
        self._strange: dict[str, tuple[int, int]] = {}  # the first step since, of which it was not
        self._first_applied: float | None = None
        self._last_applied: float | None = None
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Takes one event into account."""
        record = EventRecord.of(event)
        handler = getattr(self, f"_on_{record.event}", None)
        if handler is not None:
            handler(record)
        if record.total_steps is not None:
            self.total_steps = record.total_steps

    @property
    def step(self) -> int:
        """Steps completed."""
        reached = [g for g in self.generations.values() if g.start is not None or g.last]
        return max(reached, key=lambda g: g.generation).last if reached else 0

    @property
    def steps_left_out(self) -> int:
        """How many steps were left out because something in them was not finite."""
        return len(self._left_out)

    @property
    def current(self) -> Generation | None:
        """The newest generation."""
        return self.generations[max(self.generations)] if self.generations else None

    @property
    def metrics(self) -> dict[str, float]:
        """The newest value of each metric, finite or not."""
        return {name: value for name, (_, _, value) in sorted(self._metrics.items())}

    @property
    def nonfinite(self) -> dict[str, int]:
        """The metrics that are no finite numbers now, and the step since which they are none."""
        now = (name for name, value in self.metrics.items() if not math.isfinite(value))
        return {name: self._strange[name][1] for name in now}

    @property
    def pauses(self) -> list[dict[str, Any]]:
        """What each re-formation cost."""
        return [
            {"cause": g.cause, "seconds": g.pause, "generation": g.generation, "step": g.start}
            for _, g in sorted(self.generations.items())
            if g.pause is not None
        ]

    def checkpoint(self, now: float) -> dict[str, Any]:
        """The newest checkpoint, and those that failed since. ``now`` is in Unix seconds."""
        at, step = self._saved or (-math.inf, None)
        failed = sorted(one for one in self._unsaved.values() if one[0] > at)
        return {
            "step": step,
            "age": None if step is None else round(max(0.0, now - at), 1),
            "failed": len(failed),
            "reason": failed[-1][1] if failed else None,
        }

    @property
    def goodput(self) -> float | None:
        """The share of time that was not a pause; None before there is a second step."""
        if self._first_applied is None or self._last_applied is None:
            return None
        span = self._last_applied - self._first_applied
        if span <= 0:
            return None
        paused = sum(float(pause["seconds"]) for pause in self.pauses)
        return round(min(1.0, max(0.0, 1 - paused / span)), 4)

    def stretches(self) -> list[tuple[int, int, int]]:
        """Returns (generation, first step, last step) of the steps that each one owns."""
        began = sorted(
            (g.generation, g.start) for g in self.generations.values() if g.start is not None
        )
        ends = [*(start for _, start in began), self.step][1:]
        return [
            (number, start + 1, end)
            for (number, start), end in zip(began, ends, strict=False)
            if end > start
        ]

    def _generation(self, event: EventRecord) -> Generation:
        number = event.generation
        if number is None:
            number = max(self.generations, default=0)
        return self.generations.setdefault(number, Generation(number))

    def _on_generation_formed(self, event: EventRecord) -> None:
        generation = self._generation(event)
        generation.world_size = event.world_size
        generation.cause = event.cause
        generation.at = event.time
        generation.members = event.members or []
        if generation is self.current:
            self.waiting = False
            for member, state in self.members.items():
                self.members[member] = "away" if state == "draining" else state
            self.members.update(dict.fromkeys(generation.members, "active"))

    def _on_resumed(self, event: EventRecord) -> None:
        generation = self._generation(event)
        generation.world_size = generation.world_size or event.world_size
        generation.cause = generation.cause or event.cause
        generation.at = generation.at or event.time
        generation.start = event.step or 0
        generation.last = max(generation.last, generation.start)
        if generation.cause != "start":
            generation.pause = event.seconds
        self.steps_lost += event.lost_steps or 0
        self._applied(event.time)

    def _on_steps(self, event: EventRecord) -> None:
        first, metrics = event.first, event.metrics or {}
        series = {name: of for name, of in metrics.items() if isinstance(of, list) and of}
        if first is None or not series:
            return
        generation = self._generation(event)
        if generation.start is None:  # nobody led when it began
            generation.start = first - 1
        generation.last = max(generation.last, first + max(map(len, series.values())) - 1)
        for name, values in series.items():
            for step, value in enumerate(values, first):
                self._metric(name, generation.generation, step, value)
        self._applied(event.time)

    def _on_evaluated(self, event: EventRecord) -> None:
        number = max(self.generations, default=0)
        for name, value in (event.metrics or {}).items():
            self._metric(name, number, event.step or 0, value)

    def _on_nonfinite(self, event: EventRecord) -> None:
        if event.step is None:
            return
        if event.action in ("skip", "rollback"):
            self._left_out.add(event.step)
        number = max(self.generations, default=0)
        for name, value in (event.metrics or {}).items():
            self._metric(name, number, event.step, value)

    def _on_checkpoint_committed(self, event: EventRecord) -> None:
        if event.step is not None:
            self._saved = max(self._saved or (-math.inf, 0), (event.time, event.step))

    def _on_checkpoint_failed(self, event: EventRecord) -> None:
        why = event.time, event.reason or ""
        if event.step is not None:
            self._unsaved[event.step] = max(self._unsaved.get(event.step, why), why)

    _on_checkpoint_skipped = _on_checkpoint_failed

    def _on_drain(self, event: EventRecord) -> None:
        member, at = str(event.member), event.time
        # A leader that takes over hears of it, too: it is the same notice.
        self.drains += abs(at - self._drained.get(member, -math.inf)) > ONE_NOTICE
        self._drained[member] = at
        self._member(event, "draining")

    def _on_loss(self, event: EventRecord) -> None:
        self.losses += 1
        self._member(event, "lost")

    def _on_member_joined(self, event: EventRecord) -> None:
        self._member(event, "joining")

    def _on_member_ready(self, event: EventRecord) -> None:
        # A leader that takes over hears again of members that have long been training.
        if self.members.get(event.member or "") != "active":
            self._member(event, "ready")

    def _on_unreadable(self, event: EventRecord) -> None:
        self.unreadable = event.reason

    def _on_waiting(self, event: EventRecord) -> None:
        self.waiting = True

    def _member(self, event: EventRecord, state: str) -> None:
        if event.member:
            self.members[event.member] = state

    def _metric(self, name: str, generation: int, step: int, value: Any) -> None:
        known, number = self._metrics.get(name), number_in(value)
        if number is None:
            return
        at = generation, step
        if known is None or at >= known[:2]:
            self._metrics[name] = (*at, float(number))
        if math.isfinite(number):
            self._finite[name] = max(at, self._finite.get(name, at))
            if self._strange.get(name, at) < at:
                del self._strange[name]
        elif at >= self._finite.get(name, at):
            self._strange[name] = min(at, self._strange.get(name, at))

    def _applied(self, at: float) -> None:
        self._first_applied = at if self._first_applied is None else min(self._first_applied, at)
        self._last_applied = at if self._last_applied is None else max(self._last_applied, at)
