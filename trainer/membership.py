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
from typing import Any

from trainer.member import Member, State, choose, enough_since, slots_in
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


class Phase(enum.Enum):
    """Where the world stands."""

    WAITING = "waiting"
    FORMING = "forming"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


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
        self.world: World | None = None  # the newest; in WAITING it is over
        self.generation = last_generation  # that of ``world``, once there is one
        self._taken = 0  # the newest that a member brought from an earlier leader
        self.steps = 0  # the most steps that anyone reported
        # Those of the world who are still members, in rank order; nobody in WAITING.
        self._team: dict[MemberId, Member] = {}
        self._cause = "leader" if last_generation else "start"
        self._stopping_since = now
        self._aborted = False
        self._overdue = False
        self._forming_since = now
        self._formed_at = now
        self._progress_at = now
        self._idle = 0.0
        self._fruitful = False  # whether the world has completed a step
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
        if isinstance(event, Tick):
            self._tick(now)
        elif isinstance(event, Joined):
            self._joined(event, now)
        elif (member := self.members.get(event.member)) is not None:
            member.heard = now
            self._take(member, event, now)
        elif not isinstance(event, Left):
            # Given up before: whoever it is, its place in the world is gone.
            self._do(Release(event.member, "not a member"))
        if not isinstance(event, Progress):  # the most frequent, and it decides nothing
            self._settle(now)
        return self._out

    def _take(self, member: Member, event: Event, now: float) -> None:
        if isinstance(event, Progress):
            self._progressed(event.generation, event.step, now)
        elif isinstance(event, Ready):
            self._ready(member, now)
        elif isinstance(event, Started):
            self._started(member, event, now)
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

    # --- members ------------------------------------------------------------------

    def _joined(self, event: Joined, now: float) -> None:
        if event.member not in self.members:
            self.members[event.member] = Member(event.member, event.slots, State.JOINING, now)
            self._record("member_joined", member=event.member.replica, slots=event.slots)
        member = self.members[event.member]
        member.heard = now
        brought = event.world
        if brought is not None and self.world is None and brought.generation >= self.generation:
            self._adopt(brought, member, now)
        if member.id in self._team and brought != self.world:
            self._missed(member, now)
        if brought is not None and (member.id not in self._team or self.phase is Phase.STOPPING):
            # That world is over, and nobody could tell this member.
            self._taken = max(self._taken, brought.generation)
            self._do(Abort(brought))

    def _adopt(self, world: World, bringer: Member, now: float) -> None:
        """A world formed by an earlier leader is running: lead it from here."""
        self.generation = world.generation
        self.world = world
        self.phase = Phase.RUNNING
        self._progress_at = self._formed_at = now
        others = [self.members[id_] for id_ in world.members if id_ in self.members]
        for rank, (id_, slots) in enumerate(world.slots):
            heard = now + self.policy.adoption_wait  # it has this long to come over
            member = self.members.setdefault(id_, Member(id_, slots, State.ACTIVE, heard))
            member.rank = rank
            self._team[id_] = member
        bringer.state = State.ACTIVE
        for member in others:
            if member is not bringer:
                self._missed(member, now)

    def _missed(self, member: Member, now: float) -> None:
        """An earlier leader put the member into this world, and it never heard of it."""
        if member.state is State.ACTIVE:
            member.state = State.JOINING
        self._break(now)
        member.stopped = True

    def _ready(self, member: Member, now: float) -> None:
        member.expected_until = 0.0
        if member.state is State.JOINING:
            member.state = State.READY
            member.ready_since = now
            member.stopped = True  # all its workers wait: none is in the generation any more
            self._record("member_ready", member=member.id.replica)

    def _drain(self, member: Member, event: Drain, now: float) -> None:
        if member.state is State.DRAINING:
            return
        self._report("drain", member, event.reason, deadline_seconds=event.deadline)
        if member.state is State.ACTIVE:
            member.state = State.DRAINING
            member.drain_until = now + event.deadline
            if self.phase is Phase.STOPPING:
                self._blame("drain")  # the stop that is under way serves this drain, too
        else:
            self._release(member, "drained")

    def _crashed(self, member: Member, event: Crashed, now: float) -> None:
        self._report("loss", member, event.reason)
        if member.state is not State.DRAINING:
            member.state = State.JOINING
            if event.spare:
                member.expected_until = now + self.policy.hold_off
        member.clean = False
        self._tear(member, now)
        if member.slots == 1 or member.state is State.DRAINING:
            member.stopped = True  # nothing of it is left in the generation, or will be needed

    def _lose(self, member: Member, reason: str, now: float) -> None:
        if not (member.state is State.DRAINING and member.stopped):  # else it left as planned
            self._report("loss", member, reason)
            self._tear(member, now)
        self._forget(member)

    def _tear(self, member: Member, now: float) -> None:
        """A member, or one of its workers, is gone: a hole in the world, if it was in it."""
        if member.id in self._team:
            self._blame("loss")
            if not member.stopped:
                self._break(now)

    def _release(self, member: Member, reason: str) -> None:
        self._forget(member)
        self._do(Release(member.id, reason))

    def _forget(self, member: Member) -> None:
        del self.members[member.id]
        self._team.pop(member.id, None)

    # --- the world ----------------------------------------------------------------

    def _started(self, member: Member, event: Started, now: float) -> None:
        if self.phase is not Phase.FORMING or event.generation != self.generation:
            return
        member.started = True
        member.step = event.step
        if event.idle is not None:
            self._idle = max(self._idle, event.idle)
        if all(one.started for one in self._team.values()):
            self.phase = Phase.RUNNING
            self._formed_at = self._progress_at = now
            self._record(
                "resumed",
                generation=self.generation,
                world_size=slots_in(list(self._team.values())),
                cause=self._cause,
                step=event.step,
                lost_steps=max(0, self.steps - event.step),
                seconds=round(self._idle, 4) if self._idle else None,
            )
            self.steps = event.step
            self._cause = "grow"

    def _progressed(self, generation: int, step: int, now: float) -> None:
        if generation == self.generation and step > self.steps:
            if self.steps and self.phase is Phase.RUNNING and self._cause == "leader":
                self._cause = "grow"  # a step since the first report: all of that world lives
            self.steps = step
            self._progress_at = now
            self._fruitful = True
            self._setbacks = 0

    def _stopped(self, member: Member, event: Stopped, now: float) -> None:
        if event.generation != self.generation or member.id not in self._team:
            return
        self._progressed(event.generation, event.step, now)
        member.stopped = True
        member.step = event.step
        member.clean = event.clean
        if self.phase is not Phase.STOPPING or event.failed:
            # A collective broke, perhaps before anybody told us of a loss.
            self._break(now)

    def _break(self, now: float) -> None:
        """The generation cannot go on: everyone is to leave it at once."""
        if self.phase is not Phase.STOPPING:
            self._setbacks += not self._fruitful
            self._enter_stopping("loss", now)
        self._blame("loss")
        self._abort(now)

    def _abort(self, now: float) -> None:
        if self.world is not None and not self._aborted:
            self._aborted = True
            self._stopping_since = now
            self._do(Abort(self.world))

    def _enter_stopping(self, cause: str, now: float) -> None:
        self._blame(cause)
        self._record("paused", generation=self.generation, cause=self._cause, step=self.steps)
        self.phase = Phase.STOPPING
        self._stopping_since = now
        self._aborted = self._overdue = False

    def _blame(self, cause: str) -> None:
        """Remembers the weightiest reason for the generation to come."""
        self._cause = max(self._cause, cause, key=CAUSES_BY_WEIGHT.index)

    # --- time ---------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        for member in list(self.members.values()):
            if member.id in self._team and not member.stopped:
                silent = now - max(member.heard, self._progress_at)
                if silent > self.policy.suspicion:
                    self._give_up(member, f"silent for {silent:.1f} s", now)
                elif now > member.drain_until:
                    self._give_up(member, "did not leave before its deadline", now)
            elif (silent := now - member.heard) > self.policy.idle_suspicion:
                self._give_up(member, f"silent for {silent:.1f} s", now)
        if self.phase is Phase.FORMING and now - self._forming_since > self.policy.forming_limit:
            self._break(now)
        if self.phase is Phase.STOPPING and now - self._stopping_since > self.policy.stop_limit:
            self._insist(now)

    def _give_up(self, member: Member, reason: str, now: float) -> None:
        self._do(Release(member.id, reason))
        self._lose(member, reason, now)

    def _insist(self, now: float) -> None:
        """The stop takes too long: breaks it off, and next time kills what still does not stop.

        The last clean copy of the state is given longer.
        """
        self._stopping_since = now
        if not self._aborted:
            self._abort(now)
            return
        team = self._team.values()
        if not self._overdue and not any(one.stopped and one.clean for one in team):
            self._overdue = True
            return
        for member in team:
            if not member.stopped:
                member.stopped = True
                member.clean = False
                if member.state is State.ACTIVE:
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
        assert self.world is not None
        draining = any(member.state is State.DRAINING for member in self._team.values())
        if draining or self._may_admit(now):
            self._enter_stopping("drain" if draining else "grow", now)
            self._do(Pause(self.world))

    def _settle_stopping(self, now: float) -> None:
        team = list(self._team.values())
        if not all(member.stopped for member in team):
            return
        if any(now < member.expected_until for member in team):
            return  # a spare takes over in a moment
        if self._setbacks >= self.policy.setback_limit:
            reason = f"{self._setbacks} worlds in a row were lost before they completed a step"
            self._finish("failed", reason, self.steps)
            return
        for member in team:
            if member.state is State.ACTIVE:
                member.state = State.READY
                member.ready_since = now
        chosen = self._choose()
        enough = slots_in(chosen) >= self.policy.min_workers
        clean = [member for member in team if member.clean]
        if clean and not enough:
            best = max(clean, key=lambda one: (one.state is not State.DRAINING, one.step))
            self._do(Save(best.id))
        for member in team:
            if member.state is State.DRAINING:
                self._release(member, "drained")
        if enough:
            self._form(chosen, now)
        else:
            self.phase = Phase.WAITING
            self._team = {}
            self._waiting_told = False

    def _settle_waiting(self, now: float) -> None:
        chosen = self._choose()
        slots = slots_in(chosen)
        if slots < self.policy.min_workers:
            if self.generation and now >= self._adopting_until and not self._waiting_told:
                self._waiting_told = True
                self._record("waiting", slots=slots, min_workers=self.policy.min_workers)
        elif self.generation == 0:
            waited = now - enough_since(chosen, self.policy.min_workers)
            if slots >= self.expected or waited >= self.policy.start_wait:
                self._form(sorted(chosen, key=lambda one: one.id), now)
        elif now >= self._adopting_until and self._gathered(
            enough_since(chosen, self.policy.min_workers), now
        ):
            self._form(chosen, now)

    def _form(self, chosen: list[Member], now: float) -> None:
        self.generation = max(self.generation, self._taken) + 1
        self.world = arrange(self.generation, [(one.id, one.slots) for one in chosen])
        self.phase = Phase.FORMING
        self._forming_since = self._progress_at = now
        self._idle = 0.0
        self._fruitful = False
        for member in self.members.values():
            member.rank = float("inf")
        for rank, member in enumerate(chosen):
            member.rank = rank
            member.state = State.ACTIVE
            member.started = member.stopped = member.clean = False
        self._team = {member.id: member for member in chosen}
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
        if now - self._formed_at < self.policy.admission_interval:
            return False
        if not any(member.state is State.READY for member in self.members.values()):
            return False
        newcomers = [member for member in self._choose() if member.state is State.READY]
        return bool(newcomers) and self._gathered(min(one.ready_since for one in newcomers), now)

    def _gathered(self, since: float, now: float) -> bool:
        """Whether waiting longer for others is not worth it; ``since`` it could go on."""
        if now - since >= self.policy.hold_off:
            return True
        return not any(member.state is State.JOINING for member in self.members.values())

    def _choose(self) -> list[Member]:
        policy = self.policy
        return choose(list(self.members.values()), policy.min_workers, policy.max_workers)

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

    def _do(self, command: Command) -> None:
        self._out.append(command)

    def _record(self, event: str, **fields: Any) -> None:
        known = {key: value for key, value in fields.items() if value is not None}
        self._do(Record(event, known))

    def _report(self, event: str, member: Member, reason: str, **fields: Any) -> None:
        """Records what happened to a member, and how far the run was."""
        fields |= {"generation": self.generation, "step": self.steps}
        self._record(event, member=member.id.replica, reason=reason, **fields)
