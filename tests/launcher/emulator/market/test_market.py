"""The Spot market's decisions: who loses a VM, and who gets one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.emulator.market.market import Bid, Capacity, Grant, Loss, capacity_of, grants, losses
from launcher.emulator.market.traces import TraceError, read_trace
from launcher.job.marketfile import Capacity as Capacity_
from launcher.job.marketfile import Market

TRACES = Path(__file__).parents[3] / "data" / "traces"
SMALL, LARGE = "a2-highgpu-1g", "a2-highgpu-8g"
HERE = "us-central1"


def bid(job: int, replicas: Sequence[str] = (), machine: str = SMALL, **more: object) -> Bid:
    names = {*replicas, *more.get("living", ()), *more.get("leaving", ())}  # type: ignore[misc]
    machines = dict.fromkeys(sorted(names), machine)
    return Bid(job, HERE, machines, wanted=tuple(replicas), **more)  # type: ignore[arg-type]


def names(count: int) -> tuple[str, ...]:
    return tuple(f"workerpool1-{index}" for index in range(count))


def capacity(*counts: tuple[float, int], machine: str = SMALL) -> Capacity:
    return Capacity({(None, machine): list(counts)})


def test_each_count_holds_until_the_next_and_the_last_for_ever() -> None:
    there = capacity((0, 5), (10, 2), (20, 7))
    assert [there.at((HERE, SMALL), moment) for moment in (0, 9.9, 10, 19, 20, 1e9)] == [
        *(5, 5, 2, 2, 7, 7)
    ]
    assert there.changes(-1, 10) == [0, 10]
    assert (there.next_change(10), there.next_change(20)) == (20, None)


def test_what_a_market_does_not_mention_is_never_short() -> None:
    there = Capacity({(HERE, SMALL): [(0, 0)], (None, LARGE): [(0, 3)], (HERE, LARGE): [(0, 1)]})
    assert there.at((HERE, SMALL), 0) == 0
    assert there.at(("elsewhere", SMALL), 0) is None
    assert there.at((HERE, LARGE), 0) == 1
    assert there.at(("elsewhere", LARGE), 0) == 3


def test_a_job_that_starts_gets_all_its_vms_or_none() -> None:
    start = bid(1, names(3), together=True)
    assert grants([start], capacity((0, 2)), 0) == []
    assert grants([start], capacity((0, 3)), 0) == [Grant(1, names(3))]


def test_a_job_needs_every_kind_of_vm_that_its_pools_are_made_of() -> None:
    machines = {"workerpool0-0": LARGE, "workerpool1-0": SMALL}
    start = Bid(1, HERE, machines, wanted=tuple(machines), together=True)
    there = Capacity({(None, SMALL): [(0, 9)], (None, LARGE): [(0, 0), (5, 1)]})
    assert grants([start], there, 0) == []
    assert grants([start], there, 5) == [Grant(1, tuple(machines))]


def test_a_running_job_gets_its_lost_vms_back_one_by_one() -> None:
    lost = bid(1, names(3)[1:], living=names(1))
    assert grants([lost], capacity((0, 2)), 0) == [Grant(1, ("workerpool1-1",))]


def test_the_oldest_job_comes_first_and_does_not_stand_in_the_way() -> None:
    large = bid(1, names(5), together=True)
    small = bid(2, names(2), together=True)
    late = bid(3, names(2), together=True)
    assert grants([late, small, large], capacity((0, 3)), 0) == [Grant(2, names(2))]
    assert grants([late, small, large], capacity((0, 8)), 0) == [
        *(Grant(1, names(5)), Grant(2, names(2)))
    ]


def test_a_vm_in_its_notice_still_takes_its_place() -> None:
    leaving = bid(1, leaving=names(2))
    waiting = bid(2, names(1), together=True)
    assert grants([leaving, waiting], capacity((0, 2)), 0) == []
    assert grants([leaving, waiting], capacity((0, 3)), 0) == [Grant(2, names(1))]
    # But it is not taken twice.
    assert losses([leaving], capacity((0, 0)), 0, seed=0) == []


def test_jobs_that_are_not_spot_neither_take_part_nor_suffer() -> None:
    standard = bid(1, names(4)[2:], living=names(2), limited=False, takeable=False)
    assert losses([standard], capacity((0, 0)), 0, seed=0) == []
    assert grants([standard], capacity((0, 0)), 0) == [Grant(1, names(4)[2:])]


def test_flex_start_waits_for_capacity_but_is_not_preempted() -> None:
    flex = bid(1, living=names(2), takeable=False)
    spot = bid(2, living=names(2))
    taken = losses([flex, spot], capacity((0, 1)), 0, seed=0)
    assert taken == [Loss(2, name) for name in names(2)]
    start = bid(3, names(1), together=True, takeable=False)
    assert grants([flex, start], capacity((0, 2)), 0) == []


def test_the_seed_and_the_moment_decide_which_vms_are_taken() -> None:
    jobs = [bid(1, living=names(20)), bid(2, living=names(20))]

    def draw(moment: float, seed: int) -> list[Loss]:
        return losses(jobs, capacity((0, 30)), moment, seed)

    assert len(draw(0, 7)) == 10
    assert draw(0, 7) == draw(0, 7)
    assert draw(0, 7) != draw(0, 8)
    assert draw(0, 7) != draw(1, 7)
    assert {loss.job for loss in draw(0, 7)} == {1, 2}


BIDS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 4),
        st.integers(0, 4),
        *(st.booleans() for _ in range(3)),
        st.sampled_from([SMALL, LARGE]),
    ),
    max_size=5,
)


@given(BIDS, st.integers(0, 12), st.integers(0, 12), st.integers())
def test_no_more_vms_than_there_are_and_none_of_them_idle(
    jobs: list[tuple[int, int, int, bool, bool, bool, str]], small: int, large: int, seed: int
) -> None:
    there = Capacity({(None, SMALL): [(0, small)], (None, LARGE): [(0, large)]})
    bids = []
    for number, (living, leaving, wanted, together, limited, takeable, machine) in enumerate(jobs):
        all_names = names(living + leaving + wanted)
        bids.append(
            bid(
                number,
                all_names[living + leaving :],
                machine,
                living=all_names[:living],
                leaving=all_names[living : living + leaving],
                together=together,
                limited=limited,
                takeable=takeable,
            )
        )

    def held(bids: list[Bid], leaving: bool = False) -> Counter[str]:
        return Counter(
            one.machines[name]
            for one in bids
            if one.limited
            for name in (*one.living, *(one.leaving if leaving else ()))
        )

    taken = losses(bids, there, 0, seed)
    assert len(set(taken)) == len(taken)
    for loss in taken:
        old = bids[loss.job]
        assert old.limited and old.takeable
        bids[loss.job] = replace(
            old,
            living=tuple(name for name in old.living if name != loss.replica),
            wanted=() if old.together else (*old.wanted, loss.replica),
        )
    for machine, limit in ((SMALL, small), (LARGE, large)):
        left = held(bids)[machine]
        lost = sum(bids[loss.job].machines[loss.replica] == machine for loss in taken)
        fixed = any(one.limited and not one.takeable for one in bids)
        assert left <= limit or fixed
        assert not lost or left >= limit  # no more than must be

    before = held(bids, leaving=True)
    for grant in grants(bids, there, 0):
        old = bids[grant.job]
        assert set(grant.replicas) <= set(old.wanted)
        assert not old.together or grant.replicas == old.wanted
        bids[grant.job] = replace(
            old,
            living=(*old.living, *grant.replicas),
            wanted=tuple(name for name in old.wanted if name not in grant.replicas),
        )
    after = held(bids, leaving=True)
    for machine, limit in ((SMALL, small), (LARGE, large)):
        assert after[machine] <= max(limit, before[machine])
        for one in bids:  # whoever still wants VMs cannot have them
            if one.wanted and set(one.machines.values()) == {machine}:
                assert one.limited
                assert after[machine] + (len(one.wanted) if one.together else 1) > limit


def test_27_hours_of_a_real_market_give_the_right_number_of_vms_at_every_sample() -> None:
    trace = TRACES / "gcp-a100-us-east1-b.txt"
    there = capacity_of(Market(capacity=[Capacity_(machine=SMALL, trace=str(trace))]))
    replayed = [replay(there, seed) for seed in (1, 1, 2)]
    for histories in replayed:
        assert [(moment, len(living)) for moment, living in histories] == read_trace(trace)
    assert replayed[0] == replayed[1]
    assert replayed[0] != replayed[2]


def replay(there: Capacity, seed: int) -> list[tuple[float, frozenset[str]]]:
    """Lets a running job of 64 VMs ride the market. Returns which of them lived when."""
    job = bid(1, names(64))
    history = []
    for moment in there.changes(-1, 1e9):
        taken = {loss.replica for loss in losses([job], there, moment, seed)}
        living = tuple(name for name in job.living if name not in taken)
        job = replace(job, living=living, wanted=(*job.wanted, *sorted(taken)))
        for grant in grants([job], there, moment):
            living = (*living, *grant.replicas)
        wanted = tuple(name for name in job.wanted if name not in living)
        job = replace(job, living=living, wanted=wanted)
        history.append((moment, frozenset(living)))
    return history


def test_a_market_whose_trace_is_not_there_is_refused(tmp_path: Path) -> None:
    market = Market(capacity=[Capacity_(machine=SMALL, trace=str(tmp_path / "nothing.txt"))])
    with pytest.raises(TraceError, match=r"nothing\.txt: No such file"):
        capacity_of(market)
