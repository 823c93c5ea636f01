"""Who fits into a world that may have certain sizes only. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.coordinator.member import Member, in_order, slots_in


def choose_of_size(members: list[Member], sizes: Sequence[int]) -> list[Member]:
    """Returns the members of the largest world of one of ``sizes``; nobody if there is none.

    Members are taken whole. The earlier ones stay together, unless only others fill the size.

    Args:
        members: who is there; survivors are wanted first, in order of rank, then newcomers.
        sizes: the sizes that it may have, in workers.
    """
    usable = in_order(members)
    there = slots_in(usable)
    for size in sorted(sizes, reverse=True):
        if size <= there and (found := _first(usable, size) or _filling(usable, size)):
            return found
    return []


def _first(members: list[Member], size: int) -> list[Member]:
    chosen, room = [], size
    for member in members:
        if member.slots <= room:
            chosen.append(member)
            room -= member.slots
    return [] if room else chosen


def _filling(members: list[Member], size: int) -> list[Member]:
    """Any members that fill ``size``, the later ones only where needed."""
    last: dict[int, Member | None] = {0: None}  # by slots: whom so many were reached with
    before: dict[int, int] = {}
    for member in members:
        for slots in list(last):
            reached = slots + member.slots
            if reached <= size and reached not in last:
                last[reached], before[reached] = member, slots
    if size not in last:
        return []
    chosen = []
    while (newest := last[size]) is not None:
        chosen.append(newest)
        size = before[size]
    return chosen[::-1]
