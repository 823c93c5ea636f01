"""Who lives: judged by silence, and by progress. Pure.

A step that completes proves that every member lives: synchronous training is its own
heartbeat. So suspicion may be quick, and silence counts only since the last step.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from trainer.coordinator.limits import Limits, Timeouts
from trainer.coordinator.member import NEVER, Member

AWAY = 10.0  # seconds for the only holder of the state to connect again
RISE, FALL = 0.5, 0.2  # how far a new measurement moves the pace; it rises faster than it falls


class Pace:
    """How long a step takes, as measured.

    Attributes:
        seconds: a running average, 0 before the first step. It errs to the long side.
        progress_at: when the last step completed, or when the world began, if that is later.
    """

    def __init__(self, now: float) -> None:
        self.seconds = 0.0
        self.progress_at = now
        self._stalls = 0

    def restart(self, now: float) -> None:
        """A world begins."""
        self.progress_at = now

    def advance(self, steps: int, now: float) -> None:
        """So many more steps have completed."""
        took = (now - self.progress_at) / steps
        weight = 1.0 if not self.seconds else RISE if took > self.seconds else FALL
        self.seconds += weight * (took - self.seconds)
        self.progress_at = now

    def stalled(self) -> None:
        """There was no step for ``stall``, though all live: the next stall is twice as long.

        What takes so long may be no deadlock, but an evaluation, which would begin again for ever.
        """
        self._stalls += 1

    def timeouts(self, limits: Limits, now: float, *, running: bool) -> Timeouts:
        """The timeouts for steps of this length; in a running world the step may be longer."""
        timeouts = limits.timeouts(self.seconds)
        timeouts = replace(timeouts, stall=timeouts.stall * 2**self._stalls)
        if not running:
            return timeouts
        sure = limits.timeouts(max(self.seconds, now - self.progress_at))
        return replace(timeouts, suspicion=sure.suspicion, hang=sure.hang)

    def left(self, now: float) -> float:
        """How long the running step will probably take to its end, in seconds."""
        return max(0.0, self.seconds - (now - self.progress_at))


@dataclass(frozen=True)
class Look:
    """A look at one member.

    Attributes:
        now: of the same clock as all other times.
        progress_at: when the world's last step completed.
        timeouts: of the world.
        limits: of the run.
        inside: whether the member is in the world, and has not stopped.
        only: whether nobody else holds the state.
    """

    now: float
    progress_at: float
    timeouts: Timeouts
    limits: Limits
    inside: bool = True
    only: bool = False

    def why_lost(self, member: Member) -> str | None:
        """Why the member counts as lost; None if it does not."""
        if member.away and self.now - member.heard > AWAY:
            return "its connection broke"
        quick = self.inside or self.only  # else it may be silent for longer
        limit = self._patience.suspicion if quick else self.limits.idle_suspicion
        silent = self.now - max(member.heard, self._since)
        if silent > limit:
            return f"silent for {silent:.1f} s"
        if self.inside and not self.only and self.now > member.drain_until:
            return "did not leave before its deadline"
        return None

    def why_hung(self, member: Member) -> str | None:
        """Why a worker of the member counts as hung although its agent lives; or None."""
        return self._why_hung(member, self._since)

    def is_stuck(self, member: Member) -> bool:
        """Whether its workers do not leave a world that is over, and that it came with."""
        since = member.leaving_since
        if self.inside or since is None:
            return False
        member.hung = self._why_hung(member, since) is not None
        patience = self._patience
        computing = math.inf if self.only else patience.stall
        return bool(overdue([member], self.now - since, patience, self.limits, computing))

    @property
    def _patience(self) -> Timeouts:
        return self.timeouts.of_only_holder if self.only else self.timeouts

    @property
    def _since(self) -> float:
        return self.progress_at if self.inside else NEVER

    def _why_hung(self, member: Member, since: float) -> str | None:
        if member.leaving_since not in (None, since):
            return None  # see is_stuck
        timeouts = self._patience
        if member.frozen_since is not None:
            frozen = self.now - max(member.frozen_since, since)
            if frozen > timeouts.suspicion:
                return f"a worker has been stopped for {frozen:.1f} s"
        quiet = min(member.quiet + self.now - member.heard, self.now - since)
        if quiet > timeouts.hang:
            return f"a worker has shown no life for {quiet:.1f} s"
        return None


def stalled_for(
    now: float, pace: Pace, timeouts: Timeouts, limits: Limits, only: Member | None
) -> float | None:
    """For how many seconds there has been no step although all live; None if that is no stall.

    The only holder of the state may not live: its patience is a stall, which grows with each. So
    while it is silent, or a worker of it, that is no stall: it would be waited for without end.
    """
    took = now - pace.progress_at
    if took <= timeouts.stall:
        return None
    look = Look(now, pace.progress_at, timeouts, limits)
    silent = only is not None and (look.why_lost(only) or look.why_hung(only))
    return None if silent else took


def forming_limit(team: Collection[Member], timeouts: Timeouts) -> float:
    """How long a world may form, in seconds; longer if somebody is at work, say reads a file."""
    all_wait = all(one.started or one.waiting for one in team)
    return timeouts.forming if all_wait else timeouts.stall


def overdue(
    team: Collection[Member],
    waited: float,
    timeouts: Timeouts,
    limits: Limits,
    computing: float = math.inf,
) -> list[Member]:
    """Those who do not leave a broken generation, and are to lose their workers for it.

    Args:
        team: the members of the generation.
        waited: seconds since it was broken off.
        timeouts: of this world.
        limits: of this run.
        computing: how long a worker that computes, and shows life, may take while nobody has left
            with a clean copy: it may have the last one, and evaluate.
    """
    kept = any(one.stopped and one.clean for one in team)  # else any may be the last clean copy
    for_waiting = timeouts.abort if kept else timeouts.last_copy
    for_computing = timeouts.linger if kept else computing

    def limit(member: Member) -> float:
        if member.hung:
            return limits.hung_grace
        if not kept and member.quiet > timeouts.suspicion:
            return timeouts.stall  # its machine is loaded; it could not have noticed yet
        return for_waiting if member.waiting else for_computing

    return [one for one in team if not one.stopped and waited > limit(one)]
