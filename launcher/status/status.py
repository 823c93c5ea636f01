"""What a run's events, attempts, outcome and audit say about it: ``swell status``, purely.

``swell status RUN --json`` is a contract with other programs::

    run, state       queued | running | waiting | succeeded | failed | cancelled | limited
    step             steps completed
    attempts         as in attempts/*.json
    generations      [{generation, world_size, cause, at, step}]; step is where it began
    drains, losses   how many replicas left with notice, and without
    steps_lost       completed steps that had to be done again
    samples_repeated, samples_skipped    over all audited epochs; null without an audit
    pauses           [{cause, seconds, generation, step}]
    goodput          share of the time from the first to the last step that was not a pause
    checkpoint       {step, age, failed, reason}: the newest one, its age in seconds, how many
                     since then could not be written, and why the last of these
    metrics          the newest value of each metric
    epochs           [{epoch, samples, exactly_once}]; exactly_once is null until it is over
    reason           why the run ended
    spent            {usd, seconds, attempts, remaining: {usd, seconds, attempts, until}}: what the
                     attempts have taken, usd by estimate, and what the limits leave; null where
                     there is no price, or no limit (see launcher.supervision.limits)
    api              {job, state, reason, error, console}: what the API says of a CustomJob on
                     Vertex AI that is not on record as ended; else null (see launcher.status.api)

Events come from several machines: what does not have the documented form is ignored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from launcher import home
from launcher.job.fallback import Limits
from launcher.job.model import valid
from launcher.status.samples import account as account_samples
from launcher.status.samples import read_audit
from launcher.supervision.attempt import ENDED, Attempt, read_attempts
from launcher.supervision.limits import account
from trainer.rundir.directory import RunDirectory
from trainer.rundir.events import Event, read_events

ONE_NOTICE = 15.0  # seconds in which no replica is given notice twice
ABANDONED = (
    "the process that launched it is gone, and its local VMs with it; swell attach goes on with it"
)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: succeeded, failed, cancelled, or limited: it has reached one of its limits.
        reason: one line; a traceback may follow on further lines.
        metrics: the final metrics.
    """

    state: str
    reason: str
    metrics: dict[str, float]

    @classmethod
    def of(cls, outcome: dict[str, Any]) -> Outcome:
        """Returns outcome.json as an Outcome."""
        metrics = outcome.get("metrics")
        return cls(
            str(outcome.get("state", "failed")),
            str(outcome.get("reason", "")),
            dict(metrics) if isinstance(metrics, dict) else {},
        )


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
        self.total_steps: int | None = None
        self.waiting = False
        self.members: dict[str, str] = {}  # replica → its state: joining, ready, active, …
        self._saved: tuple[float, int] | None = None  # when, and which step
        self._unsaved: dict[int, tuple[float, str]] = {}  # by step: when, and why not
        self._metrics: dict[str, tuple[int, int, float]] = {}
        self._first_applied: float | None = None
        self._last_applied: float | None = None
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Takes one event into account."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)
        total = _int(event, "total_steps")
        self.total_steps = self.total_steps if total is None else total

    @property
    def step(self) -> int:
        """Steps completed."""
        reached = [g for g in self.generations.values() if g.start is not None or g.last]
        return max(reached, key=lambda g: g.generation).last if reached else 0

    @property
    def current(self) -> Generation | None:
        """The newest generation."""
        return self.generations[max(self.generations)] if self.generations else None

    @property
    def metrics(self) -> dict[str, float | None]:
        """The newest value of each metric; None for one that is not a finite number."""
        return {name: finite(value) for name, (_, _, value) in sorted(self._metrics.items())}

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

    def _generation(self, event: Event) -> Generation:
        number = _int(event, "generation")
        if number is None:
            number = max(self.generations, default=0)
        return self.generations.setdefault(number, Generation(number))

    def _on_generation_formed(self, event: Event) -> None:
        generation = self._generation(event)
        generation.world_size = _int(event, "world_size")
        generation.cause = _str(event, "cause")
        generation.at = float(event["time"])
        members = event.get("members")
        generation.members = [str(m) for m in members] if isinstance(members, list) else []
        if generation is self.current:
            self.waiting = False
            for member, state in self.members.items():
                self.members[member] = "away" if state == "draining" else state
            self.members.update(dict.fromkeys(generation.members, "active"))

    def _on_resumed(self, event: Event) -> None:
        generation = self._generation(event)
        generation.world_size = generation.world_size or _int(event, "world_size")
        generation.cause = generation.cause or _str(event, "cause")
        generation.at = generation.at or float(event["time"])
        generation.start = _int(event, "step") or 0
        generation.last = max(generation.last, generation.start)
        seconds = _float(event, "seconds")
        if generation.cause != "start":
            generation.pause = seconds
        self.steps_lost += _int(event, "lost_steps") or 0
        self._applied(float(event["time"]))

    def _on_steps(self, event: Event) -> None:
        first, metrics = _int(event, "first"), event.get("metrics")
        if first is None or not isinstance(metrics, dict):
            return
        series = {str(k): v for k, v in metrics.items() if isinstance(v, list) and v}
        if not series:
            return
        generation = self._generation(event)
        if generation.start is None:  # nobody led when it began
            generation.start = first - 1
        generation.last = max(generation.last, first + max(map(len, series.values())) - 1)
        for name, values in series.items():
            self._metric(name, generation.generation, first + len(values) - 1, values[-1])
        self._applied(float(event["time"]))

    def _on_evaluated(self, event: Event) -> None:
        metrics = event.get("metrics")
        number = max(self.generations, default=0)
        for name, value in metrics.items() if isinstance(metrics, dict) else ():
            self._metric(str(name), number, _int(event, "step") or 0, value)

    def _on_checkpoint_committed(self, event: Event) -> None:
        step = _int(event, "step")
        if step is not None:
            self._saved = max(self._saved or (-math.inf, 0), (float(event["time"]), step))

    def _on_checkpoint_failed(self, event: Event) -> None:
        step, why = _int(event, "step"), (float(event["time"]), _str(event, "reason") or "")
        if step is not None:
            self._unsaved[step] = max(self._unsaved.get(step, why), why)

    _on_checkpoint_skipped = _on_checkpoint_failed

    def _on_drain(self, event: Event) -> None:
        member, at = str(event.get("member")), float(event["time"])
        # A leader that takes over hears of it, too: it is the same notice.
        self.drains += abs(at - self._drained.get(member, -math.inf)) > ONE_NOTICE
        self._drained[member] = at
        self._member(event, "draining")

    def _on_loss(self, event: Event) -> None:
        self.losses += 1
        self._member(event, "lost")

    def _on_member_joined(self, event: Event) -> None:
        self._member(event, "joining")

    def _on_member_ready(self, event: Event) -> None:
        # A leader that takes over hears again of members that have long been training.
        if self.members.get(_str(event, "member") or "") != "active":
            self._member(event, "ready")

    def _on_waiting(self, event: Event) -> None:
        self.waiting = True

    def _member(self, event: Event, state: str) -> None:
        member = _str(event, "member")
        if member:
            self.members[member] = state

    def _metric(self, name: str, generation: int, step: int, value: Any) -> None:
        known = self._metrics.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        if known is None or (generation, step) >= known[:2]:
            self._metrics[name] = (generation, step, float(value))

    def _applied(self, at: float) -> None:
        self._first_applied = at if self._first_applied is None else min(self._first_applied, at)
        self._last_applied = at if self._last_applied is None else max(self._last_applied, at)


def build_status(
    run_id: str,
    history: History,
    attempts: list[dict[str, Any]],
    outcome: Outcome | None,
    audit: Iterable[dict[str, Any]] = (),
    abandoned: bool = False,
    limits: Limits | None = None,
    now: float | None = None,
) -> dict[str, Any]:
    """Returns the status of a run, as the module says.

    Args:
        run_id: the run's id.
        history: its events.
        attempts: its attempts, in order.
        outcome: how it ended, if it has.
        audit: the lines of its audit.
        abandoned: whether the launch of a local run is gone without an outcome.
        limits: the run's.
        now: Unix seconds; those of this machine's clock when None.
    """
    samples = account_samples(
        audit, history.stretches(), outcome is not None and outcome.state == "succeeded"
    )
    metrics = history.metrics
    if outcome is not None:
        metrics.update((k, finite(v)) for k, v in outcome.metrics.items())
    last = attempts[-1] if attempts else {}
    reason = outcome.reason if outcome else (ABANDONED if abandoned else last.get("reason") or None)
    return {
        "run": run_id,
        "state": state_of(history, last, outcome, abandoned),
        "step": history.step,
        "attempts": attempts,
        "generations": [
            {
                "generation": g.generation,
                "world_size": g.world_size,
                "cause": g.cause,
                "at": g.at,
                "step": g.start,
            }
            for _, g in sorted(history.generations.items())
        ],
        "drains": history.drains,
        "losses": history.losses,
        "steps_lost": history.steps_lost,
        "samples_repeated": samples.repeated if samples else None,
        "samples_skipped": samples.skipped if samples else None,
        "pauses": history.pauses,
        "goodput": history.goodput,
        "checkpoint": history.checkpoint(time.time() if now is None else now),
        "metrics": metrics,
        "epochs": samples.epochs if samples else None,
        "reason": reason,
        "spent": account(
            limits or Limits(),
            [Attempt.from_json(attempt) for attempt in attempts],
            time.time() if now is None else now,
        ),
        "api": None,  # only swell status asks
    }


def state_of(
    history: History,
    attempt: dict[str, Any],
    outcome: Outcome | None,
    abandoned: bool = False,
) -> str:
    """Returns a run's state in one word; ``attempt`` is its last one, or empty."""
    if outcome is not None:
        return outcome.state
    if abandoned:
        return "failed"
    if history.waiting:
        return "waiting"
    if attempt.get("state") in ENDED:
        return "queued"  # for the next attempt
    started = attempt.get("state") == "RUNNING" or history.generations
    return "running" if attempt and started else "queued"


def read_status(run_dir: RunDirectory, audited: bool = True) -> dict[str, Any]:
    """Returns the status of a run from its run directory.

    Args:
        run_dir: the run.
        audited: also read the audit, which may be long.

    Raises OSError and ValueError when the run directory cannot be read.
    """
    run = run_dir.run()
    found = run_dir.outcome()
    abandoned = found is None and is_abandoned(run)
    if abandoned:  # it may have ended between the two looks
        found = run_dir.outcome()
    return build_status(
        str(run["id"]),
        History(read_events(run_dir)),
        read_attempts(run_dir),
        Outcome.of(found) if found else None,
        read_audit(run_dir) if audited else (),
        abandoned,
        _limits(run),
    )


def _limits(run: dict[str, Any]) -> Limits:
    """The limits in run.json; none, where a version that knows others wrote them."""
    spec = run.get("spec")
    return valid(Limits, (spec.get("limits") if isinstance(spec, dict) else None) or {}) or Limits()


def is_abandoned(run: dict[str, Any]) -> bool:
    """Whether the launch of a local run is known to be gone."""
    return (
        run.get("target") == "local"
        and home.launched_here(run)
        and not home.launch_lives(str(run["id"]))
    )


def finite(value: Any) -> float | None:
    """Returns ``value`` if JSON can carry it."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _int(event: dict[str, Any], name: str) -> int | None:
    value = event.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _float(event: dict[str, Any], name: str) -> float | None:
    value = finite(event.get(name))
    return None if value is None else float(value)


def _str(event: dict[str, Any], name: str) -> str | None:
    value = event.get(name)
    return value if isinstance(value, str) else None
