"""The members of one world: what they have done in it, and what they hold. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from trainer.coordinator.member import Member, State, slots_in
from trainer.protocol.signals import Crashed, Done, Event, Failure, Finish, Save, Stopped
from trainer.protocol.world import MemberId
from trainer.rundir.usererror import Message

SAVING = 15.0  # seconds, at most, for which newcomers wait for what those save who leave
RESERVE = 3.0  # seconds of a notice that are kept for what comes after the processes' end


class Team(dict[MemberId, Member]):
    """The members of the newest world, by id, in the order of ranks; nobody once it is over.

    One that is given up is in it no more, although the world itself does not change.
    """

    def __init__(self, members: Iterable[tuple[MemberId, Member]] = ()) -> None:
        super().__init__(members)
        self._done: dict[tuple[MemberId, int], Done] = {}  # by rank, too
        self._finish: Finish | None = None

    @classmethod
    def of(cls, members: Iterable[Member]) -> Team:
        """Returns the team of ``members``."""
        return cls((member.id, member) for member in members)

    @property
    def slots(self) -> int:
        """How many workers they have."""
        return slots_in(self.values())

    @property
    def alone(self) -> dict[str, str]:
        """Where the one worker is that this world consists of, as an event says it; {} if more."""
        return {"member": next(iter(self)).replica} if self.slots == 1 else {}

    @property
    def started(self) -> bool:
        """Whether all have begun to train in this world."""
        return all(one.started for one in self.values())

    @property
    def ends(self) -> bool:
        """Whether the script has ended well on a rank: it is about to on all."""
        return bool(self._done)

    @property
    def late(self) -> list[Member]:
        """Those on some of whose ranks it has not ended."""
        ended = Counter(member for member, _ in self._done)
        return [one for one in self.values() if ended[one.id] < one.slots]

    def note_done(self, done: Done, generation: int) -> None:
        """Training is complete, or ``by_all`` the script has ended well on a rank.

        Args:
            done: who says so, and how.
            generation: that of this team.
        """
        if not done.by_all:
            self._finish = _finish_of([done])
        elif done.generation == generation and done.member in self:
            self._done[done.member, done.rank] = done

    @property
    def complete(self) -> Finish | None:
        """How the run ends, if it does: all who are not lost have ended well."""
        if self._done and not self.late:
            return _finish_of(list(self._done.values()))
        return self._finish

    def unalike(self, member: Member, event: Event) -> str:
        """Why the run ends, if a member's collective has failed as the script has ended on others.

        Whoever has ended takes part in none, so that no world could complete it.
        """
        match event:
            case Stopped(failed=failed, generation=number) if failed:
                others = [one for one in self._done.values() if one.generation == number]
            case Crashed(failure=Failure(kind="again", rank=rank)) if not member.stopped:
                others = [one for one in self._done.values() if one.rank != rank]
            case _:
                return ""
        if not others or member.id not in self:
            return ""
        ended = others[0]
        told = (
            f"the script has ended on rank {ended.rank} ({ended.member.replica}) after step "
            f"{ended.step}, and {member.id.replica} was to train on with it: all ranks of a "
            "Horovod script must end alike, so let them agree (by an allreduce) before one leaves "
            "its loop"
        )
        return str(Message("SW5009", told))

    @property
    def draining(self) -> list[Member]:
        """Those who are about to leave with notice."""
        return [one for one in self.values() if one.state is State.DRAINING]

    def has_left(self, now: float) -> bool:
        """Whether all have left this world, and no spare is about to take a worker's place."""
        members = self.values()
        return all(one.stopped for one in members) and all(
            now >= one.expected_until for one in members
        )

    def leaves_in_time(self, step_left: float, min_workers: int, now: float) -> bool:
        """Whether the running step may end before this world is left for those who drain.

        If too few stay for the next world, the state is saved first, before they must be gone.
        """
        draining = self.draining
        needed = step_left
        if self.slots - slots_in(draining) < min_workers:
            needed += max((one.saving for one in self.values()), default=0.0)
        return now + needed <= min((one.drain_until for one in draining), default=math.inf)

    def grace(self, most: float, now: float) -> float:
        """How long processes that are asked to end have for it, in seconds; at most ``most``."""
        left = min((one.drain_until - now for one in self.draining), default=math.inf)
        return max(0.0, min(most, left - RESERVE))

    def takes_away(self, chosen: Iterable[Member], now: float) -> bool:
        """Whether the steps of this world, now over, would be lost with those who leave.

        Not if these have no time to save them: then nothing is worth a wait.

        Args:
            chosen: who would be in the next world.
            now: the time.
        """
        held = any(one.clean and one.step > 0 for one in self.draining)
        others = any(one.holds for one in chosen)
        return held and not others and self.saving_until(now) > now

    def saving_until(self, now: float) -> float:
        """Until when nobody begins without the state of this world, which those save who leave.

        They say no more that they have; so long their machines are there. Now, if others hold it.
        """
        leaving = {one.id: one.drain_until for one in self.draining}
        until = [leaving[one.member] for one in self.saves(now) if one.member in leaving]
        return min(max(until, default=now), now + SAVING)

    def saves(self, now: float) -> list[Save]:
        """Who writes the state of this world, now over: all who hold its newest step, together.

        Those who stay, if there are any: the others may be gone before they have written.
        """
        clean = [one for one in self.values() if one.clean]
        writers = [one for one in clean if one.state is not State.DRAINING] or clean
        newest = max((one.step for one in writers), default=0)
        writers = [one for one in writers if one.step == newest]
        return [
            Save(one.id, rank, len(writers), one.drain_until - now)
            for rank, one in enumerate(writers)
        ]

    def stand_by(self, now: float) -> None:
        """All have left; those who stay and whose workers live are ready for the next world."""
        for member in self.values():
            if member.state is State.ACTIVE:
                member.state = State.READY
                member.ready_since = now


def _finish_of(all_done: list[Done]) -> Finish:
    metrics = {name: value for one in all_done for name, value in one.metrics.items()}
    unsaved = next((one.unsaved for one in all_done if one.unsaved), "")
    state, told = ("failed", unsaved) if unsaved else ("succeeded", "training is complete")
    return Finish(state, told, max(one.step for one in all_done), metrics)
