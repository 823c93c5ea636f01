"""Who is there, and who of them would be in a world formed now. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.coordinator.limits import Limits
from trainer.coordinator.member import Member, State, choose, slots_in
from trainer.coordinator.sizes import choose_of_size
from trainer.protocol.world import MemberId, World


class Roster(dict[MemberId, Member]):
    """All members, by id.

    Args:
        limits: of this run.
        expected: slots that the run was asked for; the first world waits for them.

    Attributes:
        most: how many workers a world may have, unless it may have certain sizes only.
        enough_at: since when there have been enough for one; None while there are not.
    """

    def __init__(self, limits: Limits, expected: int) -> None:
        super().__init__()
        self._limits = limits
        self._asked = expected
        self.most = limits.max_workers
        self.enough_at: float | None = None

    @property
    def expected(self) -> int:
        """How many workers the first world waits for: those that may come, and that it may have."""
        return max(self._limits.min_workers, min(self._asked, self._limits.max_workers))

    def bound(self, most: int) -> None:
        """How many workers a world may have from now on."""
        self.most = max(most, self._limits.min_workers)

    def expect_without(self, member: Member) -> None:
        """A member is out of the run for good: nobody waits for its workers."""
        self._asked -= member.slots

    def chosen(self) -> list[Member]:
        """Who would be in a world formed now, in the order of ranks."""
        if self._limits.sizes:
            return choose_of_size(list(self.values()), self._limits.sizes)
        return choose(list(self.values()), self._limits.min_workers, self.most)

    @property
    def there(self) -> int:
        """How many workers there are for a world, whether it can form or not."""
        return slots_in(member for member in self.values() if member.usable)

    @property
    def only_holder(self) -> Member | None:
        """The one member that holds the state, if there is no other."""
        holders = [member for member in self.values() if member.holds]
        return holders[0] if len(holders) == 1 else None

    @property
    def holder_is_away(self) -> bool:
        """Whether the only member that holds the state may come back: none begins without it."""
        return any(member.away for member in self.values())

    def adopt(self, world: World, deposed: MemberId | None, now: float) -> Iterator[Member]:
        """The members of a world that an earlier leader formed, whether they have come or not.

        Each has so long to come over, less if it was silent already; a step says that it lives.
        """
        for rank, (id_, slots) in enumerate(world.slots):
            silent = self._limits.suspicion if id_ == deposed else 0.0
            heard = now + self._limits.coming_over - silent
            member = self.setdefault(id_, Member(id_, slots, State.ACTIVE, heard))
            member.rank = rank
            yield member

    def excuse(self, seconds: float) -> None:
        """So long nobody could be heard."""
        for member in self.values():
            member.heard += seconds

    def stays(self, member: MemberId) -> bool:
        """Whether a member is here, and is not about to leave."""
        return member in self and self[member].usable

    def first(self, now: float) -> list[Member]:
        """Who begins the run: all that were asked for, or, later, as many as are needed.

        Called at every event until then: with a thousand members it must not sort them.
        """
        usable = self.there
        if usable < self._limits.min_workers:
            self.enough_at = None
            return []
        if self.enough_at is None:
            self.enough_at = now
        if usable < self.expected and now - self.enough_at < self._limits.start_wait:
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
