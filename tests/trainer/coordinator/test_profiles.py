"""Who hears of which wish to profile steps."""

from __future__ import annotations

from trainer.coordinator.profiles import KEPT, Profiles
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.world import MemberId, arrange
from trainer.rundir.profiles import Wish

A, B = MemberId("workerpool0-0", "a"), MemberId("workerpool1-0", "b")
WORLD, NEXT = arrange(1, [(A, 1), (B, 2)]), arrange(2, [(B, 2), (A, 1)])


def wished(*wishes: Wish | None) -> Profiles:
    profiles = Profiles()
    for wish in wishes:
        profiles.take(wish)
    return profiles


def test_those_hear_of_it_whose_ranks_are_meant_once_in_a_world() -> None:
    profiles = wished(Wish(1, 10, 12, ranks=(0, 2), memory=True))
    told = pb.Profile(generation=1, number=1, first=10, last=12, memory=True)
    both = [(A, pb.Profile()), (B, pb.Profile(rank=2))]
    for _, one in both:
        one.MergeFrom(told)
    assert list(profiles.due(WORLD, step=3)) == both
    assert list(profiles.due(WORLD, step=4)) == []
    again = list(profiles.due(NEXT, step=10))
    assert [(member, one.rank, one.generation) for member, one in again] == [(B, 0, 2), (A, 2, 2)]


def test_of_what_is_over_nobody_hears() -> None:
    profiles = wished(Wish(1, 10, 12), Wish(2, 10, 13))
    assert [one.number for _, one in profiles.due(WORLD, step=12)] == [2]


def test_a_rank_that_the_world_does_not_have_is_passed_over() -> None:
    profiles = wished(Wish(1, 10, 12, ranks=(1, 7)))
    assert [one.rank for _, one in profiles.due(WORLD, step=0)] == [1]


def test_a_damaged_wish_keeps_no_other() -> None:
    profiles = wished(None, Wish(2, 10, 12))
    assert profiles.following == 3
    assert [one.number for _, one in profiles.due(WORLD, step=0)] == [2]


def test_of_very_many_the_first_come_first() -> None:
    profiles = wished(*(Wish(number, number, number) for number in range(1, 2 * KEPT)))
    assert [one.number for _, one in profiles.due(WORLD, step=0)] == list(range(1, KEPT + 1))
    assert [one.number for _, one in profiles.due(WORLD, step=2)] == [KEPT + 1, KEPT + 2]
