"""Who trains with whom: every decision of the coordinator, and nothing else.

A pure state machine. It does no I/O: ``step(event, now)`` takes what happened and the time (seconds
of any monotonic clock) and returns commands for the coordinator to carry out, in order.

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
    any ──done, the program at fault──► ENDED       (trainer.coordinator.blame)

Who waits for what, and for how long, is a table in ``trainer.coordinator.limits``. A drain has the
deadline of its notice; a running step that will not end before it is broken off at once, and
repeated. Where only those hold the state who leave, they save it, and newcomers wait for that. Who
comes is admitted once it reaches all other jobs of the run (``trainer.coordinator.admission``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trainer.coordinator.admission import Admission
from trainer.coordinator.explanation import Standing, Wait, explain
from trainer.coordinator.faults import Faults
from trainer.coordinator.limits import Limits, Timeouts
from trainer.coordinator.liveness import Look, Pace, forming_limit, overdue, stalled_for
from trainer.coordinator.member import NEVER, Member, Phase, State, enough_since, slots_in
from trainer.coordinator.reformation import Reformation, told_of
from trainer.coordinator.roster import Roster
from trainer.coordinator.team import Team
from trainer.protocol import signals
from trainer.protocol.world import MemberId, World, arrange
from trainer.rundir.events import Cause


class Membership:
    """The state machine. Its host has duties that nothing here can check: docs/architecture.md.

    Args:
        limits: of the run.
        expected_workers: slots that the run was asked for; the start waits for them.
        now: the time at which the machine starts, in seconds.
        last_generation: the newest generation of an earlier leader, 0 if there was none.
        deposed: who led before; as it has fallen silent, its own member may be lost, too.
    """

    def __init__(
        self,
        limits: Limits,
        expected_workers: int,
        now: float,
        last_generation: int = 0,
        deposed: MemberId | None = None,
    ) -> None:
        self.limits, self._deposed = limits, deposed
        self.phase, self.pace = Phase.WAITING, Pace(now)
        self.members = Roster(limits, expected_workers)
        self.world: World | None = None  # the newest; in WAITING it is over
        self.generation = last_generation  # that of ``world``, once there is one
        self._taken = self.steps = 0  # the newest that a member brought; the most steps reported
        self._team, self._admission = Team(), Admission()  # of the world; nobody in WAITING
        self._reformation = Reformation("leader" if last_generation else "start")
        self._faults = Faults(self.members)
        self._stopping_since = self._forming_since = self._formed_at = self._saving_until = now
        self._aborted = self._waiting_emitted = False
        # Until then members of an earlier leader's world may be on their way to this one.
        self._adopting_until = now + limits.adoption_wait if last_generation else now
        self._out = signals.Orders()

    def timeouts(self, now: float) -> Timeouts:
        """The timeouts for steps as long as they are at present."""
        return self.pace.timeouts(self.limits, now, running=self.phase is Phase.RUNNING)

    def explain(self, now: float) -> Wait | None:
        """What is waited for; None while everything takes its usual course."""
        who = self.phase, self.members, self._team, self.generation, self.steps, self.pace
        since = self._formed_at, self._forming_since, self._stopping_since, self._aborted
        at = Standing(*who, self._admission, self.limits, self.timeouts(now), *since)
        return explain(at, now)

    def step(self, event: signals.Event, now: float) -> list[signals.Command]:
        """Takes one event and returns the commands that follow from it, in order."""
        self._out = signals.Orders()
        if self.phase is Phase.ENDED:
            return self._out
        if isinstance(event, signals.Tick):
            self._tick(now)
        elif isinstance(event, signals.Joined):
            self._joined(event, now)
        elif isinstance(event, signals.Bounded):
            self.members.bound(event.max_workers)
        elif (member := self.members.get(event.member)) is not None:
            member.heard = now
            self._take(member, event, now)
        elif not isinstance(event, signals.Left):  # given up before: its place in the world is gone
            self._out.append(signals.Release(event.member, "not a member", rejoin=True))
        if not isinstance(event, (signals.Progress, signals.Proved)):  # frequent, and decide little
            self._settle(now)
        return self._out

    def _take(self, member: Member, event: signals.Event, now: float) -> None:
        if told := self._team.unalike(member, event):
            self._finish(signals.Finish("failed", told, self.steps))
            return
        match event:
            case signals.Progress():
                self._lives(member, event, now)
            case signals.Ready():
                self._ready(member, now)
            case signals.Started():
                self._started(member, event, now)
            case signals.Stopped():
                self._stopped(member, event, now)
            case signals.Crashed():
                self._crashed(member, event, now)
            case signals.Drain():
                self._drain(member, event, now)
            case signals.Left() if member is self.members.only_holder and not member.away:
                member.away, member.heard = True, now  # its agent may come back with the state
            case signals.Left():
                self._lose(member, event.reason, now)
            case signals.Done():
                self._team.note_done(event, self.generation)
            case signals.TaskFailed():
                self._task_failed(member, event, now)
            case signals.Proved():
                self._out += self._admission.take(event, now)
                if self._admit([self.members[it] for it in event.both if it in self.members], now):
                    self._settle(now)

    def _lives(self, member: Member, event: signals.Progress, now: float) -> None:
        member.note_frozen(event.frozen, now)
        inside = event.generation == self.generation or member.leaving_since is not None
        if inside and member.lives(event):
            self._forming_since = now  # a large state takes its time
        self._progressed(event.generation, event.step, now)

    def _joined(self, event: signals.Joined, now: float) -> None:
        if event.member not in self.members:
            new = self.members[event.member] = Member(event.member, event.slots, State.JOINING, now)
            self._out.emit("member_joined", slots=event.slots, age=event.age, **new.named)
        member = self.members[event.member]
        member.heard, member.away, brought = now, False, event.world
        if brought is not None and self.world is None and brought.generation >= self.generation:
            self._adopt(brought, member, now)
        self._out += self._admission.join(member.id, now)
        if member.id in self._team and brought != self.world:
            self._missed(member, now)
        stranger = member.id not in self._team
        if brought is not None and (stranger or self.phase is Phase.STOPPING):
            # That world is over, and this member could not know.
            if stranger:
                member.leave(now)
            self._taken = max(self._taken, brought.generation)
            self._out.append(signals.Abort(brought))

    def _adopt(self, world: World, bringer: Member, now: float) -> None:
        """A world formed by an earlier leader is running: lead it from here."""
        self.generation, self.world, self.phase = world.generation, world, Phase.RUNNING
        self.pace.restart(now - self.limits.suspicion)  # no step is known of since
        self._formed_at = now
        others = [self.members[one] for one in world.members if one in self.members]
        self._team = Team.of(self.members.adopt(world, self._deposed, now))
        self._admission.adopt(world.members)
        self._out.emit("world_adopted", **told_of(world))
        bringer.state = State.ACTIVE
        for member in (one for one in others if one is not bringer):
            self._missed(member, now)

    def _missed(self, member: Member, now: float) -> None:
        """An earlier leader put the member into this world, and it never heard of it."""
        if member.state is State.ACTIVE:
            member.state = State.JOINING
        self._break(now)
        member.stopped = True

    def _ready(self, member: Member, now: float) -> None:
        member.expected_until = NEVER
        member.leaving_since, member.lost = None, False
        member.warm = member.state is State.JOINING  # else it is about to be asked to leave
        self._admit([member], now)

    def _admit(self, members: list[Member], now: float) -> bool:
        """Those are ready whose workers are warm, and who reach all other jobs: whether any is."""
        warm = [one for one in members if one.warm and one.state is State.JOINING]
        ready = [one for one in warm if self._admission.admits(one.id)]
        for member in ready:
            member.state, member.ready_since = State.READY, now
            member.stopped = True  # all its workers wait: none is in the generation any more
            self._out.emit("member_ready", member=member.id.replica)
            if self.phase is not Phase.STOPPING:
                self._faults.forgive(member.id)
                self._judge_loading()
        return bool(ready)

    def _drain(self, member: Member, event: signals.Drain, now: float) -> None:
        if member.state is State.DRAINING:
            return
        self._emit("drain", member, event.reason, deadline_seconds=event.seconds)
        member.drain_until, member.again = now + event.deadline, event.again
        if member.state is State.ACTIVE:
            member.state = State.DRAINING
            if self.phase is Phase.STOPPING:
                self._reformation.blame("drain")  # it is served by the stop under way
        else:
            self._release_drained(member)

    def _crashed(self, member: Member, event: signals.Crashed, now: float) -> None:
        inside = member.id in self._team and not member.stopped
        member.lost |= self._faults.has_failed(member.id)  # its program's end is no machine's
        self._faults.crashed(member.id, event.failure, inside, self.phase is Phase.STOPPING)
        self._mourn(member, event.reason)
        if member.state is not State.DRAINING:
            member.state = State.JOINING
            member.expected_until = now + self.limits.hold_off if event.spare else NEVER
        member.clean = member.warm = False
        member.holds &= member.slots > 1  # its other workers may; they will say so
        self._tear(member, now)
        self._judge_loading()
        if member.slots == 1 or member.state is State.DRAINING:
            member.stopped = True  # nothing of it is left in the generation, or will be needed

    def _lose(self, member: Member, reason: str, now: float) -> None:
        if not (member.state is State.DRAINING and member.stopped):  # else it left as planned
            self._mourn(member, reason, gone=True)
            self._faults.peer_lost |= member.id in self._team
            self._tear(member, now)
        self._forget(member)
        self._judge_loading()

    def _mourn(self, member: Member, reason: str, gone: bool | None = None) -> None:
        """Puts a loss on record; until the member is ready again, whatever follows is the same."""
        if not member.lost:
            member.lost = True
            self._emit("loss", member, reason, gone=gone)

    def _tear(self, member: Member, now: float) -> None:
        """A member, or one of its workers, is gone: a hole in the world, if it was in it."""
        if member.id in self._team:
            self._reformation.blame("loss")
            if not member.stopped:
                self._break(now)

    def _release_drained(self, member: Member) -> None:
        self._forget(member)
        stays_out = member.drain_until == float("inf")  # nobody takes its VM
        self._out.append(signals.Release(member.id, "drained", member.again, broken=stays_out))

    def _forget(self, member: Member) -> None:
        del self.members[member.id]
        self._team.pop(member.id, None)
        self._admission.leave(member.id)

    def _started(self, member: Member, event: signals.Started, now: float) -> None:
        forming = self.phase is Phase.FORMING
        adopted = self.phase is Phase.RUNNING and not member.started  # not on record yet
        if event.generation != self.generation or not (forming or adopted):
            return
        member.started = member.holds = True
        member.step = event.step
        self._reformation.start(event.idle, first=member.rank == 0)
        if self._team.started:
            size, more = self._team.slots, self._reformation.resumed(event.step)
            self._out.emit("resumed", generation=self.generation, world_size=size, **more)
        if forming and self._team.started:
            self.phase, self._formed_at = Phase.RUNNING, now
            self.pace.restart(now)
            self.steps = event.step
            self._reformation.end()

    def _progressed(self, generation: int, step: int, now: float) -> None:
        if generation == self.generation and step > self.steps:
            adopted = self.phase is Phase.RUNNING and self._reformation.cause == "leader"
            if self.phase is Phase.RUNNING and (self.steps or not adopted):
                self.pace.advance(step - self.steps, now)
            if adopted and self.steps:
                self._reformation.end()  # a step since the first report: all of that world lives
            self.steps = step
            self._reformation.advance()
            self._faults.reached(step)

    def _stopped(self, member: Member, event: signals.Stopped, now: float) -> None:
        if event.generation != self.generation or member.id not in self._team:
            return
        self._progressed(event.generation, event.step, now)
        member.stopped, member.step = True, event.step
        member.clean = member.holds = event.clean
        if self.phase is not Phase.STOPPING or event.failed:
            # A collective broke, perhaps before anybody reported a loss.
            self._break(now, event.cause, event.failed)

    def _break(self, now: float, cause: Cause = "loss", why: str = "") -> None:
        """The generation cannot go on: everyone is to leave it at once."""
        if self.phase is not Phase.STOPPING:
            self._reformation.set_back(why)
            self._enter_stopping(cause, now)
        self._reformation.blame(cause)
        self._abort(now)

    def _abort(self, now: float) -> None:
        if self.world is not None and not self._aborted:
            self._aborted, self._stopping_since = True, now
            self._out.append(signals.Abort(self.world))

    def _enter_stopping(self, cause: Cause, now: float) -> None:
        cause = self._reformation.blame(cause)
        self._out.emit("paused", generation=self.generation, cause=cause, step=self.steps)
        self.phase, self._stopping_since, self._aborted = Phase.STOPPING, now, False

    def _tick(self, now: float) -> None:
        timeouts, only = self.timeouts(now), self.members.only_holder
        self._out += self._admission.look(now)
        self._admit(list(self.members.values()), now)  # whom it did not reach may be gone
        for member in list(self.members.values()):
            inside = member.id in self._team and not member.stopped
            look = Look(now, self.pace.progress_at, timeouts, self.limits, inside, member is only)
            if reason := look.why_lost(member):
                self._out.append(signals.Release(member.id, reason, rejoin=True))
                self._lose(member, reason, now)
            elif look.is_stuck(member):
                member.leaving_since = None
                self._replace(member)
            elif reason := look.why_hung(member):
                self._hang(member, reason)
                if inside:
                    self._break(now)
                else:
                    member.frozen_since = None
                    self._replace(member)
        if self.phase is Phase.FORMING:
            if now - self._forming_since > forming_limit(self._team.values(), timeouts):
                self._break(now, "break")
        elif self.phase is Phase.RUNNING and not self._team.ends:
            if took := stalled_for(now, self.pace, timeouts, self.limits, only):
                fields = {"seconds": round(took, 1), **self._team.alone}
                self._out.emit("stalled", generation=self.generation, step=self.steps, **fields)
                self.pace.stalled()
                if not self._team.alone:  # who is waits for nobody, and nobody has its state
                    self._break(now, "break")
        elif self.phase is Phase.STOPPING:
            self._insist(timeouts, now)

    def _hang(self, member: Member, reason: str) -> None:
        if not member.hung:
            member.hung = True
            self._mourn(member, reason)

    def _insist(self, timeouts: Timeouts, now: float) -> None:
        """The stop takes its time: breaks it off, then kills what still does not stop."""
        waited = now - self._stopping_since
        if not self._aborted:
            if waited > timeouts.pause or not self._leaves_in_time(now):
                self._abort(now)
            return
        for member in overdue(self._team.values(), waited, timeouts, self.limits):
            self._hang(member, f"a worker did not leave within {waited:.1f} s")
            self._reformation.blame("loss")
            member.stopped = True
            member.clean = False
            if member.state is State.ACTIVE:
                member.state = State.JOINING
                member.expected_until = now + self.limits.hold_off  # if it has a spare
            self._replace(member)

    def _replace(self, member: Member) -> None:
        member.warm = False
        self._out.append(signals.Replace(member.id))

    def _settle(self, now: float) -> None:
        """Moves on wherever nothing has to be waited for any more."""
        if (finish := self._team.complete) and self.phase is not Phase.ENDED:
            self._finish(finish)
        if self.members.holder_is_away:
            return
        if self.phase is Phase.RUNNING:
            self._settle_running(now)
        if self.phase is Phase.STOPPING:
            self._settle_stopping(now)
        if self.phase is Phase.WAITING:
            self._settle_waiting(now)

    def _settle_running(self, now: float) -> None:
        assert self.world is not None
        draining = self._team.draining
        settled = now - self._formed_at >= self.limits.admission_interval
        wanted = draining or (settled and self.members.newcomers_wait(now))
        if self._team.ends or not wanted:
            return
        self._enter_stopping("drain" if draining else "grow", now)
        if self._leaves_in_time(now):
            grace = self._team.grace(self.limits.grace, now)
            self._out.append(signals.Pause(self.world, grace))
        else:
            self._abort(now)  # the running step cannot end in time: it is begun again at once

    def _leaves_in_time(self, now: float) -> bool:
        return self._team.leaves_in_time(self.pace.left(now), self.limits.min_workers, now)

    def _settle_stopping(self, now: float) -> None:
        if not self._team.has_left(now):
            return
        assert self.world is not None
        if self._judge(len(self.world.members)):
            return
        if told := self._reformation.hopeless(self.limits.setback_limit):
            self._finish(signals.Finish("failed", told, self.steps))
            return
        self._team.stand_by(now)
        chosen = self.members.chosen()
        enough = slots_in(chosen) >= self.limits.min_workers
        if not (forms := enough and not self._team.takes_away(chosen, now)):
            self._out.extend(self._team.saves(now))
            self._saving_until = self._team.saving_until(now)
        for member in self._team.draining:
            self._release_drained(member)
        if forms:
            self._form(chosen, now)
        else:
            self.phase, self._team, self._waiting_emitted = Phase.WAITING, Team(), False

    def _settle_waiting(self, now: float) -> None:
        if self.generation == 0:
            if first := self.members.first(now):
                self._form(first, now)
            return
        chosen = self.members.chosen()
        if slots_in(chosen) < self.limits.min_workers:
            if now >= self._adopting_until and not self._waiting_emitted:
                self._waiting_emitted = True
                least = self.limits.min_workers
                self._out.emit("waiting", slots=self.members.there, min_workers=least)
        elif now >= max(self._adopting_until, self._saving_until) and self.members.gathered(
            enough_since(chosen, self.limits.min_workers), now
        ):
            self._form(chosen, now)

    def _form(self, chosen: list[Member], now: float) -> None:
        self.generation = max(self.generation, self._taken) + 1
        self.world = arrange(self.generation, [(one.id, one.slots) for one in chosen])
        self.phase, self._forming_since = Phase.FORMING, now
        self.pace.restart(now)
        for member in self.members.values():
            member.rank = float("inf")
        for rank, member in enumerate(chosen):
            member.enter(rank)
        self._team = Team.of(chosen)
        self._faults.peer_lost = False
        self._out.append(signals.Form(self.world, self._faults.careful))
        self._out.emit("generation_formed", **self._reformation.form(self.world, self.steps))

    # --- who is at fault --------------------------------------------------------------

    def _task_failed(self, member: Member, event: signals.TaskFailed, now: float) -> None:
        told = {"rank": event.rank if event.rank >= 0 else None, "step": event.step}
        self._out.emit("task_failed", member=member.id.replica, reason=event.reason, **told)
        inside = event.generation == self.generation and member.id in self._team
        failure = self._faults.note(member.id, event)
        others_train = self._faults.others_train(self.steps)
        if failure.kind == "program" and (failure.trained or (inside and not others_train)):
            self._judge(len(self._team))  # the others would only learn of it in the next step
        elif inside:
            self._break(now)  # judged when all have left: they may have failed alike
        else:
            self._judge_loading()

    def _judge_loading(self) -> None:
        """Judges who could not load, as soon as it is clear whether others could."""
        if self.phase is not Phase.STOPPING and self._faults.loading_is_clear(self.steps):
            self._judge()

    def _judge(self, machines: int = 0) -> bool:
        """Ends the run, and says so, if the program is at fault; else a machine bears it."""
        ruling = self._faults.judge(self.steps, machines)
        self._out.extend(ruling.orders)
        for member in ruling.out:
            self._forget(self.members[member])
        if ruling.ends:
            self._finish(signals.Finish("failed", ruling.ends, ruling.step))
        return bool(ruling.ends)

    def _finish(self, finish: signals.Finish) -> None:
        self.phase, self.steps = Phase.ENDED, max(self.steps, finish.step)
        self._out.emit("finished", state=finish.state, reason=finish.reason, step=self.steps)
        self._out.append(replace(finish, step=self.steps))

    def _emit(self, event: str, member: Member, reason: str, **fields: Any) -> None:
        """Puts on record what happened to a member, and how far the run was."""
        fields |= {"generation": self.generation, "step": self.steps, **member.named}
        self._out.emit(event, reason=reason, **fields)
