"""Who leads: one at a time, found by everybody, replaced when silent."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.protocol.lease import (
    Claim,
    Contend,
    Follow,
    Wait,
    Watch,
    create_claim,
    last_announced,
    newest_claim,
    renew_claim,
)
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import LEADER
from trainer.rundir.store import Store

ALICE = Claim(1, "alice#1", "10.0.0.1:7000")


@pytest.fixture
def run_dir(store: Store) -> RunDirectory:
    """A run directory in each kind of store."""
    run_dir = RunDirectory(store.url, store.fs)
    run_dir.store = store
    return run_dir


# --- the decision -------------------------------------------------------------------------


def watch(patience: float = 0.0, now: float = 0.0) -> Watch:
    return Watch(timeout=5, doubt=1.25, gap=0.5, patience=patience, now=now)


def look_often(
    watch: Watch, claim: Claim | None, start: float, stop: float, **seen: bool
) -> Follow | Contend | Wait:
    """The last decision of one who looks four times in a second, from ``start`` to ``stop``."""
    decision: Follow | Contend | Wait = Wait()
    for quarter in range(int(start * 4), int(stop * 4) + 1):
        decision = watch.look(claim, quarter / 4, **seen)
    return decision


def test_the_primary_contends_for_the_first_lease_at_once() -> None:
    assert watch(now=100).look(None, 100) == Contend(1)


def test_the_others_leave_it_to_the_primary_for_a_while() -> None:
    other = watch(patience=3, now=100)
    assert other.look(None, 102.9) == Wait()
    assert other.look(None, 103) == Contend(1)


def test_a_renewed_claim_is_followed_for_ever_even_if_its_holder_is_silent() -> None:
    follower = watch()
    for counter in range(100):
        claim = replace(ALICE, counter=counter)
        assert look_often(follower, claim, counter, counter + 1, silent=True) == Follow(claim)


def test_a_claim_is_stale_after_the_timeout_without_renewal() -> None:
    follower = watch()
    assert look_often(follower, ALICE, 10, 15) == Follow(ALICE)
    assert follower.look(ALICE, 15.1) == Contend(2)


def test_a_claim_whose_holder_is_silent_is_contended_for_as_soon_as_it_is_in_doubt() -> None:
    follower = watch()
    assert look_often(follower, ALICE, 10, 11.25, silent=True) == Follow(ALICE)
    assert follower.look(ALICE, 11.3, silent=False) == Follow(ALICE)
    assert follower.look(ALICE, 11.3, silent=True) == Contend(2)


def test_staleness_counts_from_the_first_look_not_from_the_start() -> None:
    # Nobody compares clocks: how old the claim was when it was first seen is not known.
    assert watch().look(ALICE, 1000) == Follow(ALICE)


def test_whoever_did_not_look_knows_nothing() -> None:
    """It was frozen, or the store was away: the leader may have renewed all the while."""
    follower = watch()
    look_often(follower, ALICE, 0, 4)
    assert follower.look(ALICE, 1000, silent=True) == Contend(2), "it had looked for long enough"
    follower = watch()
    look_often(follower, ALICE, 0, 0.5)
    assert follower.look(ALICE, 1000, silent=True) == Follow(ALICE)


def test_the_next_leader_is_followed_as_soon_as_it_is_seen() -> None:
    follower = watch()
    assert look_often(follower, ALICE, 0, 6) == Contend(2)
    bob = Claim(2, "bob#1", "10.0.0.2:7000")
    assert look_often(follower, bob, 6.25, 11.25) == Follow(bob)


def test_an_answer_that_is_older_than_what_is_known_decides_nothing() -> None:
    follower = watch()
    bob = Claim(2, "bob#1", "10.0.0.2:7000")
    follower.look(bob, 0)
    assert follower.look(replace(ALICE, resigned=True), 1) == Wait()
    assert follower.look(bob, 1.25) == Follow(bob)


def test_a_leader_that_comes_back_in_time_is_followed_again() -> None:
    follower = watch()
    assert look_often(follower, ALICE, 0, 6) == Contend(2)
    back = replace(ALICE, counter=1)
    assert follower.look(back, 6.5) == Follow(back)


def test_nobody_waits_for_a_leader_that_resigned() -> None:
    assert watch().look(replace(ALICE, resigned=True), 0) == Contend(2)


def test_nobody_waits_for_its_own_coordinator_if_that_has_died() -> None:
    assert watch().look(ALICE, 0, orphan=True) == Contend(2)


# --- the files ----------------------------------------------------------------------------


def test_without_a_claim_there_is_no_leader(run_dir: RunDirectory) -> None:
    assert newest_claim(run_dir) is None


def test_a_claim_comes_back(run_dir: RunDirectory) -> None:
    claim = Claim(7, "workerpool1-0#9f3a", "10.0.0.3:4711", generation=12, counter=5)
    assert create_claim(run_dir, claim)
    assert newest_claim(run_dir) == claim
    assert run_dir.store.names(LEADER) == ["000007.json"]


def test_the_highest_number_counts(run_dir: RunDirectory) -> None:
    for term in (2, 10, 9):
        create_claim(run_dir, Claim(term, f"m#{term}", "t"))
    newest = newest_claim(run_dir)
    assert newest is not None and newest.term == 10


def test_of_sixteen_contenders_one_leads(run_dir: RunDirectory) -> None:
    start = threading.Barrier(16)

    def contend(number: int) -> bool:
        start.wait()
        return create_claim(run_dir, Claim(1, f"m{number}#0", f"10.0.0.{number}:1"))

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(contend, range(16)))
    assert won.count(True) == 1
    newest = newest_claim(run_dir)
    assert newest is not None and newest.member == f"m{won.index(True)}#0"


def test_a_renewal_is_seen(run_dir: RunDirectory) -> None:
    create_claim(run_dir, ALICE)
    assert renew_claim(run_dir, replace(ALICE, counter=1, generation=4))
    assert newest_claim(run_dir) == replace(ALICE, counter=1, generation=4)


def test_a_leader_that_was_replaced_cannot_renew(run_dir: RunDirectory) -> None:
    create_claim(run_dir, ALICE)
    bob = Claim(2, "bob#1", "t")
    create_claim(run_dir, bob)
    assert not renew_claim(run_dir, replace(ALICE, counter=1))
    assert newest_claim(run_dir) == bob


def test_a_claim_whose_answer_was_lost_is_recognised_as_ones_own(run_dir: RunDirectory) -> None:
    create = run_dir.store.create

    def create_again(name: str, data: bytes) -> bool:
        """Commits, loses the answer, tries again, and reports that the file is there."""
        create(name, data)
        return create(name, data)

    run_dir.store.create = create_again  # type: ignore[method-assign]
    assert create_claim(run_dir, ALICE)
    assert not create_claim(run_dir, replace(ALICE, member="bob#1"))


def test_a_leader_learns_what_its_predecessors_announced(run_dir: RunDirectory) -> None:
    assert last_announced(run_dir, 1) == 0
    create_claim(run_dir, ALICE)
    renew_claim(run_dir, replace(ALICE, counter=3, generation=8))
    assert last_announced(run_dir, 2) == 8
    # Bob claimed before Alice announced 8, and died before he renewed: what he says is old.
    create_claim(run_dir, Claim(2, "bob#1", "t", generation=7))
    assert last_announced(run_dir, 3) == 8
    renew_claim(run_dir, Claim(2, "bob#1", "t", generation=9, counter=1))
    run_dir.store.write(f"{LEADER}/000003.json", b"{")
    assert last_announced(run_dir, 4) == 9


# --- damage -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"term": 4}',
        b'{"term": null}',
        b'{"term": []}',
        b'{"counter": "many"}',
        b'{"counter": 1e999}',
        b'{"generation": NaN}',
        b"\xff\xfe\xfd",
    ],
)
def test_a_damaged_claim_is_followed_by_nobody_and_goes_stale(
    run_dir: RunDirectory, data: bytes
) -> None:
    run_dir.store.write(f"{LEADER}/000003.json", data)
    claim = newest_claim(run_dir)
    assert claim == Claim(3, "", "")
    assert look_often(watch(), claim, 0, 6) == Contend(4)
    assert create_claim(run_dir, Claim(4, "bob#1", "t"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from([one.name for one in fields(Claim)]),
                inner,
            )
        ),
    )
)
def test_whatever_is_in_a_claim_its_number_counts(value: object) -> None:
    run_dir = RunDirectory("memory://damaged-claim")
    try:
        run_dir.store.write(f"{LEADER}/000003.json", json.dumps(value).encode())
        claim = newest_claim(run_dir)
    finally:
        run_dir.store.delete("")
    assert claim is not None and claim.term == 3


def test_other_files_are_no_claims(run_dir: RunDirectory) -> None:
    for name in ("README", "000001.json.tmp", "-1.json", "²³.json", "x2.json"):
        run_dir.store.write(f"{LEADER}/{name}", b"{}")
    assert newest_claim(run_dir) is None
