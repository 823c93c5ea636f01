"""A run's history, folded from its events; what does not have the documented form is ignored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from launcher.records import EventRecord
from launcher.status import figures
from launcher.status.generation import Generation, Stretch
from launcher.status.lives import Lives, Moment
from launcher.status.losses import Losses, job_of
from launcher.status.saves import Saves
from launcher.status.scripted import Scripted
from launcher.status.waits import Wait, without_leader
from launcher.words import stall_in_words
from trainer.rundir.events import Event
from trainer.rundir.numbers import all_finite, number_in, numbers_in

# After these nothing that was told of is waited for any more.
WENT_ON = frozenset({"generation_formed", "resumed", "first_step", "steps", "paused", "finished"})
# Of these the newest counts alone.
NEWS = frozenset({"held_up", "attempt_due", "stalled", "standstill", "unattended", "waiting"})
NEWS |= {"no_group", "unsaved_files", "output_committed"}
TOKENS = "tokens_per_sample"  # the metric that a task's tokens() makes
STEPPED = frozenset({"resumed", "first_step", "steps"})  # training goes on, or a script
ONE_NOTICE = 15.0  # seconds in which no replica is given notice twice


class History:
    """The fold of a run's events. ``add`` each one once; their order matters little.

    What its figures are is defined in launcher.status.figures.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.generations: dict[int, Generation] = {}
        self._notices: list[tuple[float, int | None]] = []  # when, and in which job of a fleet
        self._given_up: set[int | None] = set()  # attempts: that their machines go is no news
        self._drained: dict[str, float] = {}  # when each replica was drained last
        self._losses = Losses()
        self._told_lost: dict[int, int] = {}  # steps, by generation, as its leader knew
        self.left_out: set[int] = set()  # steps in which something was not finite
        self.lives = Lives()
        self.waits: list[Moment] = []  # when machines were too few
        self._evaluated: dict[int, float] = {}  # seconds of evaluations, by step
        self._end: Moment | None = None
        self._ending: str | None = None  # the state in which the run ended
        self._flops: float | None = None  # operations of a sample
        self._on_gpus = False
        self._peaks: dict[int, float] = {}  # operations a second of one VM, by attempt
        self._scripted = Scripted()
        self.total_steps: int | None = None
        self.waiting = False
        self._led: set[int | None] = set()  # attempts; None of an image that does not say
        self._went_on_at = -math.inf  # when it was seen last that something happens
        self.stepped_at = -math.inf  # when a world was seen last that trains
        self.newest_of: dict[str, EventRecord] = {}  # of each of NEWS that was told of
        self._slow: dict[tuple[int, int], EventRecord] = {}  # by generation and rank: the newest
        self._left_at: dict[int, float] = {}  # when each generation was
        self.unreadable: str | None = None  # why some events could not be read
        self.members: dict[str, str] = {}  # replica → its state: joining, ready, active, …
        self._apart: dict[int, tuple[float, str]] = {}  # by attempt: when first, and what
        self._saves = Saves()
        self._metrics: dict[str, tuple[int, int, float]] = {}
        self._finite: dict[str, tuple[int, int]] = {}  # the newest step of which it was
        self._strange: dict[str, tuple[int, int]] = {}  # the first step since, of which it was not
        self._ended_at = math.inf
        self._last_event = -math.inf
        for event in events:
            self.add(event)

    def add(self, event: Event, read: EventRecord | None = None) -> None:
        """Takes one event into account; ``read`` is what it says, if that was read already."""
        record = read or EventRecord.of(event)
        self.lives.add(record)
        self._last_event = max(self._last_event, record.time)
        handler = getattr(self, f"_on_{record.event}", None)
        if handler is not None:
            handler(record)
        if record.event in NEWS and record.time >= self._time_of(record.event):
            self.newest_of[record.event] = record
        if record.event in WENT_ON:
            self._went_on_at = max(self._went_on_at, record.time)
        if record.event in STEPPED:
            self.stepped_at = max(self.stepped_at, record.time)
        if record.total_steps is not None:
            self.total_steps = record.total_steps

    @property
    def in_order(self) -> list[Generation]:
        """All generations, in order."""
        return [generation for _, generation in sorted(self.generations.items())]

    @property
    def step(self) -> int:
        """Steps completed."""
        return figures.step_of(self.in_order)

    @property
    def losses(self) -> int:
        """How many replicas went without notice."""
        return self._losses.until(self._ended_at)

    @property
    def drains(self) -> int:
        """How many replicas were given notice."""
        return sum(at <= self._ended_at and job not in self._given_up for at, job in self._notices)

    @property
    def steps_lost(self) -> int:
        """Completed steps that had to be done again."""
        return figures.steps_lost(self.in_order, self._told_lost)

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
        return list(figures.pauses(self.in_order))

    @property
    def unreached(self) -> dict[int, str]:
        """What keeps attempts out of the world that none of their members has been in, in words."""
        members = (member for one in self.generations.values() for member in one.members)
        inside = {job_of(member) for member in members}
        return {job: why for job, (_, why) in self._apart.items() if job not in inside}

    @property
    def inside(self) -> dict[int, int]:
        """How many members each attempt of a fleet has in the newest world."""
        current = self.current
        jobs = [] if current is None else filter(None, map(job_of, current.members))
        return dict(Counter(jobs))

    @property
    def trains(self) -> bool:
        """Whether the newest world holds its state on all its workers."""
        return self.current is not None and self.current.start is not None

    def checkpoint(self, now: float) -> dict[str, Any]:
        """The newest checkpoint, and those that failed since. ``now`` is in Unix seconds."""
        return self._saves.to_fields(now)

    def output(self, now: float) -> dict[str, Any] | None:
        """What a script has written that was saved last. ``now`` is in Unix seconds."""
        if (told := self.newest_of.get("output_committed")) is None:
            return None
        return {"age": round(max(0.0, now - told.time), 1), "names": told.names or []}

    @property
    def saved(self) -> tuple[float, int] | None:
        """When the newest checkpoint that is there was written, in Unix seconds, and its step."""
        return self._saves.newest

    @property
    def kept(self) -> int | None:
        """The last step that was not in vain; see ``figures.kept``."""
        return figures.kept(self._ending, self._saves.newest, self.in_order)

    @property
    def speed(self) -> dict[str, float | None]:
        """How fast it trains in its newest world; see ``figures.speed``."""
        total, now = self.total_steps, None if self.waiting else self.current
        left = None if total is None else max(0, total - self.step)
        return figures.speed(now, self.work(now), left)

    def work(self, world: Generation | None) -> figures.Work:
        """What a sample is, and what the GPUs of a world can do together."""
        _, _, tokens = self._metrics.get(TOKENS, (0, 0, 0.0))
        members = world.members if world is not None and self._on_gpus else []
        peaks = (self._peaks.get(job_of(one) or max(self._peaks, default=0)) for one in members)
        known = [peak for peak in peaks if peak is not None]
        peak = sum(known) if len(known) == len(members) else 0.0
        return figures.Work(tokens if math.isfinite(tokens) else None, self._flops, peak)

    @property
    def held_up(self) -> Wait | None:
        """What the run waits for, as its leader says; None while it goes on."""
        told = self.newest_of.get("held_up")
        if told is None or told.time < self._went_on_at or told.seconds is None:
            return None
        since = told.time - told.seconds
        until = math.inf if told.limit is None else since + told.limit
        what, seen = told.reason or "", self.newest_of.get("standstill")
        if seen is not None and seen.reason and seen.time > max(since, self._went_on_at):
            what += f"; {seen.reason}"
        return Wait(what, since, until, told.then)

    @property
    def stragglers(self) -> list[EventRecord]:
        """What was told last of each worker of the newest world that is slower than the others."""
        current = self.current
        number = None if current is None or self.waiting else current.generation
        known = sorted(self._slow.items())
        return [one for (of, _), one in known if of == number and not one.over]

    def unled(self, attempts: Iterable[dict[str, Any]], created: float) -> Wait | None:
        """What the run waits for while nobody leads it; None if somebody does.

        Args:
            attempts: the run's, in order.
            created: when the run was, in Unix seconds.
        """
        known, due, soon = list(attempts), self.newest_of.get("attempt_due"), None
        if due and due.seconds is not None and (due.attempt or 0) > len(known):
            what = f"attempt {due.attempt}, which is due ({due.choice})"
            soon = Wait(what, due.time, due.time + due.seconds, "it is sent")
        return without_leader(known, self._led, soon, created)

    @property
    def ended(self) -> Moment | None:
        """When the run did, as its events say; None while it goes on."""
        return self._end

    @property
    def newest(self) -> Moment:
        """When the newest event was written."""
        newest = self.current
        return Moment(self._last_event, 0 if newest is None else newest.term)

    @property
    def evaluated_last(self) -> float:
        """Seconds of evaluations of what the last step came to."""
        return self._evaluated.get(self.step, 0.0)

    def stall(self, now: float) -> str | None:
        """That no step comes although everybody lives, in words; None if steps come.

        Args:
            now: Unix seconds.
        """
        told, current = self.newest_of.get("stalled"), self.current
        if told is None or told.seconds is None or self.step > (told.step or 0):
            return None
        left_at = self._left_at.get(told.generation or 0, -math.inf)
        if current is None or told.generation != current.generation or left_at > told.time:
            return None
        waited = told.seconds + max(0.0, now - told.time)
        return stall_in_words(waited, told.member) if math.isfinite(waited) else None

    def stretches(self) -> list[tuple[int, int, int]]:
        """Returns (generation, first step, last step) of the steps that each one owns.

        Those are the steps that no later one has done again.
        """
        found, end = [], self.step
        for generation in reversed(self.in_order):
            if (start := generation.start) is not None:
                if end > start:
                    found.append((generation.generation, start + 1, end))
                end = min(end, start)
        return found[::-1]

    def _time_of(self, kind: str) -> float:
        known = self.newest_of.get(kind)
        return -math.inf if known is None else known.time

    def _generation(self, event: EventRecord) -> Generation:
        number = event.generation
        if number is None:
            number = max(self.generations, default=0)
        if (known := self.generations.get(number)) is None:
            known = self.generations[number] = Generation(number)
        return known

    def _on_generation_formed(self, event: EventRecord) -> None:
        self._losses.formed(event)
        self._formed(event)

    def _on_world_adopted(self, event: EventRecord) -> None:
        self._losses.formed(event)
        if not self._generation(event).members:  # who has formed it was lost before it could tell
            self._formed(event)

    def _formed(self, event: EventRecord) -> None:
        generation = self._generation(event)
        generation.world_size = event.world_size
        generation.cause = event.cause or generation.cause
        generation.at, generation.term = self.lives.moment(event)
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
        if generation.began_at is None:
            generation.began_at = event.time
        if event.step is None:
            generation.script = True
            return
        generation.began(event.step or 0, event.seconds)
        known = self._told_lost.get(generation.generation, 0)
        self._told_lost[generation.generation] = max(known, event.lost_steps or 0)

    def _on_first_step(self, event: EventRecord) -> None:
        generation, step = self._generation(event), event.step or 0
        if generation.first_at is None:
            generation.first_at, generation.first_took = event.time, event.seconds
        if generation.start is None:  # nobody led when it began
            generation.start = max(0, step - 1)
        generation.reached(step, event.time)

    def _on_steps(self, event: EventRecord) -> None:
        first, (count, series) = event.first, event.told
        if first is None or count < 1:
            return
        generation, last = self._generation(event), first + count - 1
        if generation.script:
            self._scripted.tells(generation, first, event.time, self.generations.values())
        elif generation.start is None:  # nobody led when it began
            generation.start = first - 1
        generation.reached(last, event.time - (event.age or 0.0))
        if event.seconds is not None:
            samples, waited = event.samples or 0, event.data_wait
            told = numbers_in(event.accounts) or None
            generation.took(Stretch(first, last, event.seconds, samples, waited, told))
        for name, values in series.items():
            values = values[-1:] if all_finite(values) else values
            for step, value in enumerate(values, last + 1 - len(values)):
                self._metric(name, generation.generation, step, value)

    def _on_paused(self, event: EventRecord) -> None:
        number = event.generation or 0
        self._left_at[number] = max(event.time, self._left_at.get(number, event.time))
        if event.generation is not None and event.generation in self.generations:
            self.generations[event.generation].reached(event.step or 0)
            self.generations[event.generation].left = True

    def _on_standstill(self, event: EventRecord) -> None:
        # Its leader may know of a step that rank 0 tells of with the next, which does not come.
        self._generation(event).reached(event.step or 0)

    def _on_finished(self, event: EventRecord) -> None:
        if event.time < self._ended_at:
            self._ended_at, self._end = event.time, Moment(event.time, event.term or 0)
            self._ending = event.state
        if self.current is not None and self.current.start is not None:
            self.current.reached(event.step or 0)

    @property
    def steps_known(self) -> bool:
        """Whether anybody says how far the run is; a torchrun script need not."""
        return bool(self.step) or not any(one.script for one in self.generations.values())

    @property
    def told_every(self) -> int | None:
        """Steps from one report of a torchrun script to the next, 0 after one; None of others."""
        scripts = any(one.script for one in self.generations.values())
        return self._scripted.stride if scripts and self.step else None

    def _on_evaluated(self, event: EventRecord) -> None:
        number, step = max(self.generations, default=0), event.step or 0
        self._evaluated[step] = self._evaluated.get(step, 0.0) + (event.seconds or 0.0)
        for name, value in (event.metrics or {}).items():
            self._metric(name, number, step, value)

    def _on_nonfinite(self, event: EventRecord) -> None:
        if event.step is None:
            return
        if event.action in ("skip", "rollback"):
            self.left_out.add(event.step)
        if event.action == "rollback" and event.checkpoint is not None:
            self._saves.went_back(event.checkpoint, event.time)
        number = max(self.generations, default=0)
        for name, value in (event.metrics or {}).items():
            self._metric(name, number, event.step, value)

    def _on_checkpoint_committed(self, event: EventRecord) -> None:
        if event.step is not None:
            self._saves.committed(event.step, event.time)

    def _on_checkpoint_rejected(self, event: EventRecord) -> None:
        if event.step is not None:
            self._saves.rejected(event.step, event.time)

    def _on_checkpoint_failed(self, event: EventRecord) -> None:
        if event.step is not None:
            self._saves.failed(event.step, event.time, event.reason or "")

    _on_checkpoint_skipped = _on_checkpoint_failed

    def _on_drain(self, event: EventRecord) -> None:
        member, at = str(event.member), event.time
        # A leader that takes over hears of it, too: it is the same notice.
        if abs(at - self._drained.get(member, -math.inf)) > ONE_NOTICE:
            self._notices.append((at, job_of(member)))
        self._drained[member] = at
        self._losses.left(event)
        self._member(event, "draining")

    def _on_loss(self, event: EventRecord) -> None:
        self._losses.lost(event)
        self._member(event, "lost")

    def _on_fault(self, event: EventRecord) -> None:
        if event.then != "process":  # the machine is not wanted any more
            self._losses.left(event)

    def _on_attempt_started(self, event: EventRecord) -> None:
        if event.attempt is not None and event.flops is not None and event.replicas:
            self._peaks[event.attempt] = max(0.0, event.flops / event.replicas)

    def _on_rates(self, event: EventRecord) -> None:
        if event.flops is not None and event.flops > 0:
            self._flops = event.flops
        self._on_gpus = event.device not in (None, "cpu")

    def _on_attempt_ended(self, event: EventRecord) -> None:
        self._losses.attempt_over(event)

    def _on_attempt_left(self, event: EventRecord) -> None:
        self._losses.attempt_over(event)
        if event.attempt is not None:
            self._given_up.add(event.attempt)
            self._losses.give_up(event.attempt)

    _on_attempt_replaced = _on_attempt_left

    def _on_member_joined(self, event: EventRecord) -> None:
        self._losses.joined(event)
        self._member(event, "joining")

    def _on_member_ready(self, event: EventRecord) -> None:
        # A leader that takes over hears again of members that have long been training.
        if self.members.get(event.member or "") != "active":
            self._member(event, "ready")

    def _on_unreachable(self, event: EventRecord) -> None:
        if event.member and (job := job_of(event.member)) is not None:
            here, there = event.address or "?", event.peer_address or "?"
            why = f"{event.reason}; they are at {here} and {there}"
            self._apart[job] = min(self._apart.get(job, (event.time, why)), (event.time, why))

    def _on_unreadable(self, event: EventRecord) -> None:
        self.unreadable = event.reason

    def _on_leader_changed(self, event: EventRecord) -> None:
        self._led.add(event.attempt)

    def _on_straggler(self, event: EventRecord) -> None:
        if event.generation is None or event.rank is None or event.member is None:
            return
        key = event.generation, event.rank
        if key not in self._slow or event.time >= self._slow[key].time:
            self._slow[key] = event

    def _on_waiting(self, event: EventRecord) -> None:
        self.waiting = True
        self.waits.append(self.lives.moment(event))

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
            if self._strange and self._strange.get(name, at) < at:
                generation, step, newest = self._metrics[name]
                if math.isfinite(newest):
                    del self._strange[name]
                else:  # what is told here comes late
                    self._strange[name] = generation, step
        elif at >= self._finite.get(name, at):
            self._strange[name] = min(at, self._strange.get(name, at))
