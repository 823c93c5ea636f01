"""Who is there, and who of them would be in a world formed now. Pure."""

from __future__ import annotations

from trainer.coordinator.limits import Limits
from trainer.coordinator.member import Member, State, choose, slots_in
from trainer.protocol.world import MemberId


class Roster(dict[MemberId, Member]):
    """All members, by id.

    Args:
        limits: of this run.
        expected: slots that the run was asked for; the first world waits for them.
    """

    def __init__(self, limits: Limits, expected: int) -> None:
        super().__init__()
        self._limits = limits
        self._expected = max(limits.min_workers, min(expected, limits.max_workers))
        self._enough_at: float | None = None  # since when there have been min_workers

    def chosen(self) -> list[Member]:
        """Who would be in a world formed now, in the order of ranks."""
        return choose(list(self.values()), self._limits.min_workers, self._limits.max_workers)

    def stays(self, member: MemberId) -> bool:
        """Whether a member is here, and is not about to leave."""
        return member in self and self[member].usable

    def first(self, now: float) -> list[Member]:
        """Who begins the run: all that were asked for, or, later, as many as are needed.

        Called at every event until then: with a thousand members it must not sort them.
        """
        usable = sum(member.slots for member in self.values() if member.usable)
        if usable < self._limits.min_workers:
            self._enough_at = None
            return []
        if self._enough_at is None:
            self._enough_at = now
        if usable < self._expected and now - self._enough_at < self._limits.start_wait:
            return []
        chosen = self.chosen()
        enough = slots_in(chosen) >= self._limits.min_workers
        return sorted(chosen, key=lambda one: one.id) if enough else []

    def newcomers_wait(self, now: float) -> bool:
        """Whether a running world is to be stopped for those who have come since."""
        if not any(member.state is State.READY for member in self.values()):
            return False
        newcomers = [member for member in self.chosen() if member.state is State.READY]
        return bool(newcomers) and self.gathered(min(one.ready_since for one in newcomers), now)

    def gathered(self, since: float, now: float) -> bool:
        """Whether waiting longer for others is not worth it; ``since`` it could go on."""
        over = now - since >= self._limits.hold_off
        return over or not any(member.state is State.JOINING for member in self.values())
