"""Membership of a torchrun script: the same machine, where each world is new processes.

What is different follows from the processes' being the user's, and unknown:

- A rank that fails ends its world; whether the script is tried again is for ``Tries`` to say.
- The run is complete when every rank has ended well, not when one says so.
- Who is to leave gets SIGTERM, and as much time as the notice leaves.
- How far the script is may be unknown. A world without steps is then no stall, and one that has
  lived for a while has not come to nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace

from trainer.coordinator.limits import Limits, Timeouts
from trainer.coordinator.member import Member, Phase
from trainer.coordinator.membership import Membership
from trainer.coordinator.tries import AT_ONCE, Tries
from trainer.protocol import signals
from trainer.protocol.world import MemberId, World
from trainer.rundir.events import Cause


class Restarts(Membership):
    """The state machine of a torchrun script. See Membership, also for its arguments."""

    def __init__(
        self,
        limits: Limits,
        expected_workers: int,
        now: float,
        last_generation: int = 0,
        deposed: MemberId | None = None,
    ) -> None:
        super().__init__(limits, expected_workers, now, last_generation, deposed)
        assert limits.max_restarts is not None
        self._tries = Tries(limits.max_restarts)
        self._furthest = 0  # the most steps that any world has reported
        self._done: dict[MemberId, signals.Done] = {}  # in the newest world
        self._size = 0  # of the world before the newest

    def timeouts(self, now: float) -> Timeouts:
        timeouts = super().timeouts(now)
        pause = max(timeouts.pause, self.limits.grace + timeouts.abort)
        stall = timeouts.stall if self._furthest else math.inf
        return replace(timeouts, pause=pause, linger=max(timeouts.linger, pause), stall=stall)

    def _take(self, member: Member, event: signals.Event, now: float) -> None:
        match event:
            case signals.RankFailed():
                self._rank_failed(event, now)
            case signals.Done():
                self._rank_done(event)
            case _:
                super()._take(member, event, now)

    def _rank_failed(self, failure: signals.RankFailed, now: float) -> None:
        known = failure.rank in self._tries.failures
        if failure.generation != self.generation or known:
            return
        self._out.emit(
            "rank_failed",
            member=failure.member.replica,
            generation=self.generation,
            step=self.steps,
            rank=failure.rank,
            reason=failure.reason,
        )
        self._tries.fail(failure, now)
        self._leave_failed(now)

    def _leave_failed(self, now: float) -> None:
        running = self.phase in (Phase.FORMING, Phase.RUNNING)
        if running and self._tries.to_be_left(now):
            self._reformation.set_back()
            self._enter_stopping("failure", now)
            self._abort(now)

    def _rank_done(self, done: signals.Done) -> None:
        """All processes of a member have ended well."""
        if done.generation != self.generation or done.member not in self._team:
            return
        self._done[done.member] = done
        if self._done.keys() >= self._team.keys():
            step = max(one.step for one in self._done.values())
            metrics = {k: v for one in self._done.values() for k, v in one.metrics.items()}
            lost = next((one.unsaved for one in self._done.values() if one.unsaved), "")
            state, told = ("failed", lost) if lost else ("succeeded", "training is complete")
            self._finish(signals.Finish(state, told, step, metrics))

    def _started(self, member: Member, event: signals.Started, now: float) -> None:
        super()._started(member, event, now)
        for command in self._out:
            if isinstance(command, signals.Emit) and command.event == "resumed":
                for unknown in ("step", "lost_steps"):  # the script will tell, or not
                    command.fields.pop(unknown, None)

    def _progressed(self, generation: int, step: int, now: float) -> None:
        super()._progressed(generation, step, now)
        if step > self._furthest:
            self._furthest = step
            self._tries.progress()

    def _drain(self, member: Member, event: signals.Drain, now: float) -> None:
        inside = member.id in self._team
        if inside:
            self._tries.excuse()
        super()._drain(member, event, now)
        for one in self._out if inside else ():
            if isinstance(one, signals.Emit) and one.event == "drain":
                one.fields["script"] = True  # it is not the machine alone that leaves

    def _finish(self, finish: signals.Finish) -> None:
        super()._finish(finish)
        for one in self._out:
            if isinstance(one, signals.Emit) and one.event == "finished":
                one.fields["least"] = True  # the script need not tell of each step

    def _tear(self, member: Member, now: float) -> None:
        if member.id in self._team:
            self._tries.excuse()
        super()._tear(member, now)

    def _enter_stopping(self, cause: Cause, now: float) -> None:
        if cause in ("grow", "drain"):
            self._tries.excuse()
        super()._enter_stopping(cause, now)

    def _tick(self, now: float) -> None:
        super()._tick(now)
        self._leave_failed(now)
        lived = self.phase is Phase.RUNNING and now - self._formed_at > AT_ONCE
        if lived and not self._furthest:
            self._reformation.advance()  # as far as can be known, it does what it should
            self._faults.forget()

    def _settle_stopping(self, now: float) -> None:
        if self._team.has_left(now) and (why := self._tries.left()):
            self._finish(signals.Finish("failed", str(why), self.steps))
            return
        super()._settle_stopping(now)

    def _adopt(self, world: World, bringer: Member, now: float) -> None:
        super()._adopt(world, bringer, now)
        self._size = world.size

    def _form(self, chosen: list[Member], now: float) -> None:
        super()._form(chosen, now)
        size = self._team.slots
        self._tries.begin(size)
        self._done = {}
        if self._size and size != self._size:
            # The script's batch is that of a rank, so all of them together change with the world.
            self._out.emit(
                "resized", generation=self.generation, world_size=size, before=self._size
            )
        self._size = size
