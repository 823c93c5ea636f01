"""Who trains with whom: every decision of the coordinator, and nothing else.

A pure state machine. It does no I/O: ``step(event, now)`` takes what happened and
the time (seconds of any monotonic clock) and returns commands for the coordinator
to carry out, in order.

A member is one incarnation of one replica. A replica that comes back under its old
host name is a new member, so nothing is ever held against it::

    JOINING ──Ready──► READY ──Form──► ACTIVE ──Drain──► DRAINING ──► GONE
       ▲                 ▲                │                 (also from any state: Left, silence)
       └────Crashed──────┴────Stopped─────┘

The world is in one of these phases::

    WAITING ──enough slots ready──► FORMING ──all Started──► RUNNING
       ▲                               │                        │ drain, newcomers: Pause
       │                               │ loss: Abort            │ loss: Abort
       └──fewer than min_workers──  STOPPING ◄──────────────────┘
                                       └──all Stopped or gone──► FORMING (the next generation)
    any ──done, failed──► ENDED

The limits are all in ``trainer.policy``. Silence is judged by progress,
too: a step that completes proves that every member lives, so a member is suspected
only when it has been silent *and* no step has completed for ``suspicion`` seconds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from trainer.policy import Policy
from trainer.signals import (
    Abort,
    Command,
    Crashed,
    Done,
    Drain,
    Event,
    Finish,
    Form,
    Joined,
    Left,
    Pause,
    Progress,
    Ready,
    Record,
    Release,
    Replace,
    Save,
    Started,
    Stopped,
    TaskFailed,
    Tick,
)
from trainer.world import MemberId, World, arrange


class State(enum.Enum):
    """Where a member stands."""

    JOINING = "joining"
    READY = "ready"
    ACTIVE = "active"
    DRAINING = "draining"


class Phase(enum.Enum):
    """Where the world stands."""

    WAITING = "waiting"
    FORMING = "forming"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass
class Member:
    """What the machine knows of one member."""

    id: MemberId
    slots: int
    state: State
    heard: float
    ready_since: float = 0.0
    expected_until: float = 0.0  # its spare is about to be ready
    drain_until: float = 0.0
    drain_requested: bool = False
    replaced: bool = False
    # In the generation that is forming, running or stopping:
    started: bool = False
    stopped: bool = False
    # What it holds since it stopped:
    step: int = -1
    clean: bool = False


CAUSES_BY_WEIGHT = ("grow", "drain", "loss", "leader", "start")


class Membership:
    """The state machine. See the module's docstring for its states.

    Args:
        policy: the limits.
        expected_workers: slots that the run was asked for; the start waits for them.
        now: the time at which the machine starts, in seconds.
        last_generation: the newest generation of an earlier leader, 0 if there was none.
    """

    def __init__(
        self, policy: Policy, expected_workers: int, now: float, last_generation: int = 0
    ) -> None:
        self.policy = policy
        self.expected = max(policy.min_workers, min(expected_workers, policy.max_workers))
        self.phase = Phase.WAITING
        self.members: dict[MemberId, Member] = {}
        self.world: World | None = None
        self.generation = last_generation
        self.steps = 0  # the most steps that anyone reported
        self._order: list[MemberId] = []  # relative rank order, kept across generations
        self._cause = "leader" if last_generation else "start"
        self._stopping_since = 0.0
        self._stop_rounds = 0
        self._forming_since = 0.0
        self._formed_at = float("-inf")
        self._progress_at = now
        self._idle = 0.0
        self._setbacks = 0
        self._waiting_told = False
        # Members of an earlier leader's world may still be on their way to this one.
        self._adopting_until = now + policy.adoption_wait if last_generation else now
        self._out: list[Command] = []

    # --- the one entry ------------------------------------------------------------

    def step(self, event: Event, now: float) -> list[Command]:
        """Takes one event and returns the commands that follow from it, in order."""
        self._out = []
        if self.phase is Phase.ENDED:
            return self._out
        member = None if isinstance(event, Tick) else self.members.get(event.member)
        if member is not None:
            member.heard = now
        if isinstance(event, Joined):
            self._joined(event, now)
        elif isinstance(event, Tick):
            self._tick(now)
        elif member is None:
            # Given up before: whoever it is, its place in the world is gone.
            if not isinstance(event, Left):
                self._do(Release(event.member, "not a member"))
        elif isinstance(event, Ready):
            self._ready(member, now)
        elif isinstance(event, Started):
            self._started(member, event, now)
        elif isinstance(event, Progress):
            self._progressed(event.generation, event.step, now)
        elif isinstance(event, Stopped):
            self._stopped(member, event, now)
        elif isinstance(event, Crashed):
            self._crashed(member, event, now)
        elif isinstance(event, Drain):
            self._drain(member, event, now)
        elif isinstance(event, Left):
            self._lose(member, event.reason, now)
        elif isinstance(event, Done):
            self._finish("succeeded", "training is complete", event.step, event.metrics)
        elif isinstance(event, TaskFailed):
            self._task_failed(event)
        self._settle(now)
        return self._out

    # --- members ------------------------------------------------------------------

    def _joined(self, event: Joined, now: float) -> None:
        if event.member in self.members:
            # It was adopted by name from another member's world, and now it is here.
            self.members[event.member].heard = now
            return
        member = Member(event.member, event.slots, State.JOINING, heard=now)
        self.members[event.member] = member
        self._record("member_joined", member=event.member.replica, slots=event.slots)
        if event.world is not None and event.world.generation >= self.generation:
            self._adopt(event.world, now)

    def _adopt(self, world: World, now: float) -> None:
        """A world formed by an earlier leader is running: lead it from here."""
        if self.phase is not Phase.WAITING or self.world is not None:
            return
        self.generation = world.generation
        self.world = world
        self.phase = Phase.RUNNING
        self._order = list(world.members)
        self._progress_at = self._formed_at = now
        for id_ in world.members:
            heard = now + self.policy.adoption_wait  # it has this long to come over
            member = self.members.setdefault(
                id_, Member(id_, world.slots_of(id_), State.ACTIVE, heard=heard)
            )
            member.state = State.ACTIVE
            member.started, member.stopped = True, False

    def _ready(self, member: Member, now: float) -> None:
        member.expected_until = 0.0
        member.replaced = False
        if member.state is State.JOINING:
            member.state = State.READY
            member.ready_since = now
            self._record("member_ready", member=member.id.replica)

    def _drain(self, member: Member, event: Drain, now: float) -> None:
        if member.drain_requested:
            return
        member.drain_requested = True
        member.drain_until = now + event.deadline
        self._record(
            "drain",
            member=member.id.replica,
            reason=event.reason,
            deadline_seconds=event.deadline,
            generation=self.generation,
            step=self.steps,
        )
        if member.state is State.ACTIVE:
            member.state = State.DRAINING
            if self.phase is not Phase.RUNNING:
                self._blame("drain")  # the stop that is under way serves this drain, too
        else:
            self._release(member, "drained")

    def _crashed(self, member: Member, event: Crashed, now: float) -> None:
        self._record(
            "loss",
            member=member.id.replica,
            reason=event.reason,
            generation=self.generation,
            step=self.steps,
        )
        in_world = self._in_world(member)
        if event.spare:
            member.expected_until = now + self.policy.hold_off
        if not member.drain_requested:
            member.state = State.JOINING
        member.started = False
        member.stopped = True  # nothing of it is left in the generation
        member.clean = False
        if in_world:
            self._break("loss", now)

    def _lose(self, member: Member, reason: str, now: float) -> None:
        in_world = self._in_world(member)
        self._forget(member)
        if member.drain_requested and (member.stopped or not in_world):
            return  # it had left the world as planned
        self._record(
            "loss",
            member=member.id.replica,
            reason=reason,
            generation=self.generation,
            step=self.steps,
        )
        if in_world:
            self._break("loss", now)

    def _release(self, member: Member, reason: str) -> None:
        self._forget(member)
        self._do(Release(member.id, reason))

    def _forget(self, member: Member) -> None:
        del self.members[member.id]
        if member.id in self._order:
            self._order.remove(member.id)

    # --- the world ----------------------------------------------------------------

    def _started(self, member: Member, event: Started, now: float) -> None:
        if self.phase is not Phase.FORMING or event.generation != self.generation:
            return
        member.started = True
        member.step = event.step
        if event.idle is not None:
            self._idle = max(self._idle, event.idle)
        if all(m.started for m in self._world_members()):
            self.phase = Phase.RUNNING
            self._formed_at = self._progress_at = now
            self._record(
                "resumed",
                generation=self.generation,
                world_size=self._size(),
                cause=self._cause,
                step=event.step,
                lost_steps=max(0, self.steps - event.step),
                seconds=round(self._idle, 4) if self._idle else None,
            )
            self.steps = event.step
            self._cause = "grow"

    def _progressed(self, generation: int, step: int, now: float) -> None:
        if generation == self.generation and step > self.steps:
            self.steps = step
            self._progress_at = now
            self._setbacks = 0
            if self._cause == "leader":
                self._cause = "grow"  # the whole adopted world is alive

    def _stopped(self, member: Member, event: Stopped, now: float) -> None:
        if event.generation != self.generation or not self._in_world(member):
            return
        self._progressed(event.generation, event.step, now)
        member.stopped = True
        member.step = event.step
        member.clean = event.clean
        if self.phase in (Phase.RUNNING, Phase.FORMING):
            # A collective broke before anybody told us of a loss.
            self._break("loss", now)

    def _break(self, cause: str, now: float) -> None:
        """The generation cannot go on: everyone is to leave it at once."""
        if self.world is None or self.phase not in (Phase.RUNNING, Phase.FORMING, Phase.STOPPING):
            return
        self._blame(cause)
        if self.phase is not Phase.STOPPING:
            self._record(
                "paused", generation=self.generation, cause=self._cause, step=self.steps
            )
            self._setbacks += 1
            self._enter_stopping(now)
        self._do(Abort(self.world))

    def _ask_pause(self, cause: str, now: float) -> None:
        assert self.world is not None
        self._blame(cause)
        self._record("paused", generation=self.generation, cause=self._cause, step=self.steps)
        self._enter_stopping(now)
        self._do(Pause(self.world))

    def _enter_stopping(self, now: float) -> None:
        self.phase = Phase.STOPPING
        self._stopping_since = now
        self._stop_rounds = 0

    def _blame(self, cause: str) -> None:
        """Remembers the weightiest reason for the generation to come."""
        self._cause = max(self._cause, cause, key=CAUSES_BY_WEIGHT.index)

    # --- time ---------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        for member in list(self.members.values()):
            if self._in_world(member) and not member.stopped:
                silent = now - max(member.heard, self._progress_at)
                if silent > self.policy.suspicion:
                    self._suspect(member, silent, now)
                elif member.drain_requested and now > member.drain_until:
                    self._suspect(member, silent, now, "did not leave before its deadline")
            elif now - member.heard > self.policy.idle_suspicion:
                self._suspect(member, now - member.heard, now)
        if self.phase is Phase.FORMING and now - self._forming_since > self.policy.forming_limit:
            self._break("loss", now)
        if self.phase is Phase.STOPPING and now - self._stopping_since > self.policy.stop_limit:
            self._replace_stuck(now)

    def _suspect(self, member: Member, silent: float, now: float, why: str = "") -> None:
        reason = why or f"silent for {silent:.1f} s"
        self._do(Release(member.id, reason))
        self._lose(member, reason, now)

    def _replace_stuck(self, now: float) -> None:
        """Kills workers that do not stop; the last clean copy of the state is given longer."""
        self._stopping_since = now
        self._stop_rounds += 1
        world = self._world_members()
        if self._stop_rounds == 1 and not any(m.stopped and m.clean for m in world):
            return
        for member in world:
            if not member.stopped and not member.replaced:
                member.replaced = True
                member.stopped = True
                member.clean = False
                member.state = State.JOINING
                self._do(Replace(member.id))

    # --- what follows -------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Moves on wherever nothing has to be waited for any more."""
        if self.phase is Phase.RUNNING:
            self._settle_running(now)
        if self.phase is Phase.STOPPING:
            self._settle_stopping(now)
        if self.phase is Phase.WAITING:
            self._settle_waiting(now)

    def _settle_running(self, now: float) -> None:
        world = self._world_members()
        if any(member.drain_requested for member in world):
            self._ask_pause("drain", now)
        elif self._may_admit(now):
            self._ask_pause("grow", now)

    def _settle_stopping(self, now: float) -> None:
        world = self._world_members()
        if not all(member.stopped for member in world):
            return
        if any(now < member.expected_until for member in world):
            return  # a spare takes over in a moment
        if self._setbacks >= self.policy.setback_limit:
            self._finish(
                "failed",
                f"{self._setbacks} worlds in a row were lost before they completed a step",
                self.steps,
            )
            return
        for member in world:
            if member.state is State.ACTIVE:
                member.state = State.READY
                member.ready_since = now
        held = sorted(
            (m for m in world if m.clean), key=lambda m: (m.drain_requested, -m.step)
        )
        for member in [m for m in world if m.drain_requested]:
            self._release(member, "drained")
        chosen = self._choose()
        if self._slots(chosen) >= self.policy.min_workers:
            self._form(chosen, now)
            return
        self.phase = Phase.WAITING
        self._waiting_told = False
        if held:
            self._do(Save(held[0].id))

    def _settle_waiting(self, now: float) -> None:
        chosen = self._choose()
        slots = self._slots(chosen)
        if slots < self.policy.min_workers:
            if not self._waiting_told and self.generation:
                self._waiting_told = True
                self._record("waiting", slots=slots, min_workers=self.policy.min_workers)
            return
        if self.generation == 0:
            first_ready = min(member.ready_since for member in chosen)
            if slots >= self.expected or now - first_ready >= self.policy.start_wait:
                self._form(chosen, now)
        elif now >= self._adopting_until and self._gathered(chosen, now):
            self._form(chosen, now)

    def _form(self, chosen: list[Member], now: float) -> None:
        self.generation += 1
        self.world = arrange(self.generation, [(m.id, m.slots) for m in chosen])
        self.phase = Phase.FORMING
        self._forming_since = self._progress_at = now
        self._idle = 0.0
        for member in chosen:
            member.state = State.ACTIVE
            member.started = member.stopped = False
        self._order = [member.id for member in chosen]
        self._record(
            "generation_formed",
            generation=self.generation,
            world_size=self.world.size,
            cause=self._cause,
            members=[member.id.replica for member in chosen],
            step=self.steps,
        )
        self._do(Form(self.world))

    def _may_admit(self, now: float) -> bool:
        chosen = self._choose()
        newcomers = [member for member in chosen if not self._in_world(member)]
        return (
            bool(newcomers)
            and self._slots(chosen) > self._size()
            and now - self._formed_at >= self.policy.admission_interval
            and self._gathered(newcomers, now)
        )

    def _gathered(self, newcomers: list[Member], now: float) -> bool:
        """Whether waiting longer for others would not help the newcomers."""
        if not any(member.state is State.JOINING for member in self.members.values()):
            return True
        return now - max(member.ready_since for member in newcomers) >= self.policy.hold_off

    def _choose(self) -> list[Member]:
        """Who would be in a world formed now: survivors in rank order, then newcomers."""
        usable = [
            member
            for member in self.members.values()
            if member.state in (State.READY, State.ACTIVE) and not member.drain_requested
        ]
        place = {id_: i for i, id_ in enumerate(self._order)}
        usable.sort(key=lambda m: (place.get(m.id, len(place)), m.ready_since, m.id))
        chosen: list[Member] = []
        for member in usable:
            if self._slots(chosen) + member.slots <= self.policy.max_workers:
                chosen.append(member)
        return chosen

    # --- the end ------------------------------------------------------------------

    def _task_failed(self, event: TaskFailed) -> None:
        self._record(
            "task_failed",
            member=event.member.replica,
            rank=event.rank,
            step=event.step,
            reason=event.reason,
        )
        where = f"rank {event.rank} ({event.member.replica}) at step {event.step}"
        self._finish("failed", f"the task raised in {where}\n{event.reason}", event.step)

    def _finish(
        self, state: str, reason: str, step: int, metrics: dict[str, float] | None = None
    ) -> None:
        self.phase = Phase.ENDED
        self.steps = max(self.steps, step)
        self._record("finished", state=state, reason=reason, step=self.steps)
        self._do(Finish(state, reason, self.steps, metrics or {}))

    # --- small things -------------------------------------------------------------

    def _in_world(self, member: Member) -> bool:
        return (
            self.phase in (Phase.FORMING, Phase.RUNNING, Phase.STOPPING)
            and self.world is not None
            and member.id in self.world.members
        )

    def _world_members(self) -> list[Member]:
        if self.world is None:
            return []
        return [self.members[id_] for id_ in self.world.members if id_ in self.members]

    def _size(self) -> int:
        return 0 if self.world is None else self.world.size

    @staticmethod
    def _slots(members: list[Member]) -> int:
        return sum(member.slots for member in members)

    def _do(self, command: Command) -> None:
        self._out.append(command)

    def _record(self, event: str, **fields: Any) -> None:
        known = {key: value for key, value in fields.items() if value is not None}
        self._out.append(Record(event, known))

