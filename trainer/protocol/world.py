"""One formation of the world: which members are in it, and the ranks of their workers.

Ranks run through the members in order, and within a member through its slots. The
local and cross ranks follow Horovod's own slot arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


class MemberId(NamedTuple):
    """One incarnation of one replica, such as ``workerpool1-0#9f3a``.

    A tuple, because it is the key of everything: a leader of 1,000 members hashes and
    compares millions of them.
    """

    replica: str
    incarnation: str

    def __str__(self) -> str:
        return f"{self.replica}#{self.incarnation}"

    @property
    def job(self) -> str:
        """The CustomJob that it is of, by its attempt's number; empty where a run has one job."""
        return self.replica.rpartition("/")[0]

    @property
    def file_name(self) -> str:
        """As part of a path or a URL, where it is one name."""
        return f"{self.replica.replace('/', '-')}-{self.incarnation}"

    @classmethod
    def parse(cls, text: str) -> MemberId:
        """The inverse of ``str``. Raises ValueError for any other text."""
        replica, mark, incarnation = text.partition("#")
        if not (replica and mark and incarnation):
            raise ValueError(f"{text!r} is not REPLICA#INCARNATION")
        return cls(replica, incarnation)


@dataclass(frozen=True)
class Place:
    """Where one worker stands in a world; the numbers that Horovod asks for."""

    member: MemberId
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int


@dataclass(frozen=True)
class World:
    """A numbered, immutable list of workers with ranks.

    Attributes:
        generation: counts from 1, without gaps.
        slots: (member, number of its workers), in rank order.
    """

    generation: int
    slots: tuple[tuple[MemberId, int], ...]

    @cached_property
    def members(self) -> tuple[MemberId, ...]:
        """The members in rank order."""
        return tuple(member for member, _ in self.slots)

    @cached_property
    def size(self) -> int:
        """The number of workers."""
        return sum(count for _, count in self.slots)

    def slots_of(self, member: MemberId) -> int:
        """How many workers ``member`` has. Raises KeyError if it is not in the world."""
        return self._counts[member]

    @cached_property
    def _counts(self) -> dict[MemberId, int]:
        return dict(self.slots)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """One place for each rank, in order of rank."""
        # By local rank: how many members have such a worker, and how many came already.
        most = max(count for _, count in self.slots)
        cross_sizes = [sum(count > local for _, count in self.slots) for local in range(most)]
        seen = [0] * most
        places: list[Place] = []
        for member, count in self.slots:
            for local_rank in range(count):
                places.append(
                    Place(
                        member=member,
                        rank=len(places),
                        size=self.size,
                        local_rank=local_rank,
                        local_size=count,
                        cross_rank=seen[local_rank],
                        cross_size=cross_sizes[local_rank],
                    )
                )
                seen[local_rank] += 1
        return tuple(places)

    def places_of(self, member: MemberId) -> list[Place]:
        """The places of one member's workers, by local rank; none if it is not in the world.

        An agent needs only these, and for them not everybody's have to be made.
        """
        if member not in self._counts:
            return []
        counts = [count for _, count in self.slots]
        at = self.members.index(member)
        rank = sum(counts[:at])
        return [
            Place(
                member=member,
                rank=rank + local_rank,
                size=self.size,
                local_rank=local_rank,
                local_size=counts[at],
                cross_rank=sum(count > local_rank for count in counts[:at]),
                cross_size=sum(count > local_rank for count in counts),
            )
            for local_rank in range(counts[at])
        ]


def arrange(generation: int, slots: list[tuple[MemberId, int]]) -> World:
    """Returns the world of ``slots`` in the order given.

    Raises ValueError for an empty world, a member without slots, or one that is there twice.
    """
    names = [member for member, _ in slots]
    if not slots or any(count < 1 for _, count in slots) or len(set(names)) != len(names):
        raise ValueError(f"not a world: {slots}")
    return World(generation, tuple(slots))
