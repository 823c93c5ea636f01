"""Who lives: judged by silence, and by progress. Pure.

A step that completes proves that every member lives: synchronous training is its own
heartbeat. So suspicion may be quick, and silence counts only since the last step.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from trainer.coordinator.limits import Limits, Timeouts
from trainer.coordinator.member import Member

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

    def restart(self, now: float) -> None:
        """A world begins."""
        self.progress_at = now

    def advance(self, steps: int, now: float) -> None:
        """So many more steps have completed."""
        took = (now - self.progress_at) / steps
        weight = 1.0 if not self.seconds else RISE if took > self.seconds else FALL
        self.seconds += weight * (took - self.seconds)
        self.progress_at = now

    def timeouts(self, limits: Limits, now: float, *, running: bool) -> Timeouts:
        """The timeouts for steps of this length; in a running world the step may be longer."""
        timeouts = limits.timeouts(self.seconds)
        if not running:
            return timeouts
        sure = limits.timeouts(max(self.seconds, now - self.progress_at))
        return replace(timeouts, suspicion=sure.suspicion, hang=sure.hang)

    def left(self, now: float) -> float:
        """How long the running step will probably take to its end, in seconds."""
        return max(0.0, self.seconds - (now - self.progress_at))


def why_lost(member: Member, now: float, progress_at: float, timeouts: Timeouts) -> str | None:
    """Why an active member counts as lost; None if it does not."""
    if reason := why_silent(member, now, progress_at, timeouts.suspicion):
        return reason
    if now > member.drain_until:
        return "did not leave before its deadline"
    return None


def why_silent(member: Member, now: float, progress_at: float, limit: float) -> str | None:
    """Why a member counts as lost that has been silent for longer than ``limit`` seconds."""
    silent = now - max(member.heard, progress_at)
    return f"silent for {silent:.1f} s" if silent > limit else None


def why_hung(member: Member, now: float, progress_at: float, timeouts: Timeouts) -> str | None:
    """Why a worker of an active member counts as hung although its agent lives; or None."""
    if member.frozen_since is not None:
        frozen = now - max(member.frozen_since, progress_at)
        if frozen > timeouts.suspicion:
            return f"a worker has been stopped for {frozen:.1f} s"
    quiet = min(member.quiet + now - member.heard, now - progress_at)
    if quiet > timeouts.hang:
        return f"a worker has shown no life for {quiet:.1f} s"
    return None


def forming_limit(team: Collection[Member], timeouts: Timeouts) -> float:
    """How long a world may form, in seconds; longer if somebody is at work, say reads a file."""
    all_wait = all(one.started or one.waiting for one in team)
    return timeouts.forming if all_wait else timeouts.stall


def overdue(
    team: Collection[Member], waited: float, timeouts: Timeouts, limits: Limits
) -> list[Member]:
    """Those who do not leave a broken generation, and are to lose their workers for it.

    Args:
        team: the members of the generation.
        waited: seconds since it was broken off.
        timeouts: of this world.
        limits: of this run.
    """
    kept = any(one.stopped and one.clean for one in team)  # else any may be the last clean copy
    for_waiting = timeouts.abort if kept else timeouts.last_copy
    for_computing = timeouts.linger if kept else timeouts.stall

    def limit(member: Member) -> float:
        if member.hung:
            return limits.hung_grace
        return for_waiting if member.waiting else for_computing

    return [one for one in team if not one.stopped and waited > limit(one)]
