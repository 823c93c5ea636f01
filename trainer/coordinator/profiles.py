"""Who is to profile which steps, by the wishes in the run directory. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.coordinator.stragglers import members_by_rank
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.world import MemberId, World
from trainer.rundir.profiles import Wish

KEPT = 8  # wishes at a time, of which steps are still to come


class Profiles:
    """Knows the wishes, and in which worlds they were passed on.

    Attributes:
        following: the number of the next wish that is not known.
    """

    def __init__(self) -> None:
        self.following = 1
        self._wishes: dict[int, Wish] = {}
        self._asked: set[tuple[int, int]] = set()  # generation and wish

    def take(self, wish: Wish | None) -> None:
        """Takes in the wish of the number ``following``; None for one that is damaged."""
        self.following += 1
        if wish is not None:
            self._wishes[wish.number] = wish

    def due(self, world: World, step: int) -> Iterator[tuple[MemberId, pb.Profile]]:
        """Whose agents are to hear of which wish now; each hears of it once in a world.

        Args:
            world: that which runs.
            step: steps completed: of what is over by then there is nothing to see.
        """
        ended = [number for number, wish in self._wishes.items() if wish.last <= step]
        for number in ended:
            del self._wishes[number]
        members = members_by_rank(world)
        for number, wish in sorted(self._wishes.items())[:KEPT]:
            if (world.generation, number) in self._asked:
                continue
            self._asked.add((world.generation, number))
            for rank in wish.ranks:
                if rank < world.size:
                    asked = pb.Profile(generation=world.generation, rank=rank, number=number)
                    asked.first, asked.last, asked.memory = wish.first, wish.last, wish.memory
                    yield members[rank], asked
