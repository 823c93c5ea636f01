"""Who leads: one at a time, found by everybody, replaced when silent."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trainer.lease import (
    Claim,
    Contend,
    Follow,
    Wait,
    Watch,
    create_claim,
    newest_claim,
    renew_claim,
)
from trainer.rundir import LEADER, RunDirectory
from trainer.store import Store

ALICE = Claim(1, "alice#1", "10.0.0.1:7000")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


# --- the decision -------------------------------------------------------------------------


def test_the_primary_contends_for_the_first_lease_at_once() -> None:
    assert Watch(timeout=5, patience=0, now=100).look(None, 100) == Contend(1)


def test_the_others_leave_it_to_the_primary_for_a_while() -> None:
    watch = Watch(timeout=5, patience=3, now=100)
    assert watch.look(None, 102.9) == Wait()
    assert watch.look(None, 103) == Contend(1)


def test_a_renewed_claim_is_followed_for_ever() -> None:
    watch = Watch(timeout=5, patience=0, now=0)
    for counter in range(100):
        claim = replace(ALICE, counter=counter)
        assert watch.look(claim, counter * 4.0) == Follow(claim)


def test_a_claim_is_stale_after_the_timeout_without_renewal() -> None:
    watch = Watch(timeout=5, patience=0, now=0)
    assert watch.look(ALICE, 10) == Follow(ALICE)
    assert watch.look(ALICE, 15) == Follow(ALICE)
    assert watch.look(ALICE, 15.1) == Contend(2)


def test_staleness_counts_from_the_first_look_not_from_the_start() -> None:
    # Nobody compares clocks: how old the claim was when it was first seen is not known.
    watch = Watch(timeout=5, patience=0, now=0)
    assert watch.look(ALICE, 1000) == Follow(ALICE)


def test_the_next_leader_is_followed_as_soon_as_it_is_seen() -> None:
    watch = Watch(timeout=5, patience=0, now=0)
    watch.look(ALICE, 0)
    assert watch.look(ALICE, 6) == Contend(2)
    bob = Claim(2, "bob#1", "10.0.0.2:7000")
    assert watch.look(bob, 6.1) == Follow(bob)
    assert watch.look(bob, 11) == Follow(bob)


def test_a_leader_that_comes_back_in_time_is_followed_again() -> None:
    watch = Watch(timeout=5, patience=0, now=0)
    watch.look(ALICE, 0)
    assert watch.look(ALICE, 6) == Contend(2)
    back = replace(ALICE, counter=1)
    assert watch.look(back, 6.5) == Follow(back)


# --- the files ----------------------------------------------------------------------------


def test_without_a_claim_there_is_no_leader(run_dir: RunDirectory) -> None:
    assert newest_claim(run_dir) is None


def test_a_claim_comes_back(run_dir: RunDirectory) -> None:
    claim = Claim(7, "workerpool1-0#9f3a", "10.0.0.3:4711", generation=12, counter=5)
    assert create_claim(run_dir, claim)
    assert newest_claim(run_dir) == claim
    assert run_dir.store.names(LEADER) == ["000007.json"]


def test_the_highest_number_counts(run_dir: RunDirectory) -> None:
    for epoch in (2, 10, 9):
        create_claim(run_dir, Claim(epoch, f"m#{epoch}", "t"))
    newest = newest_claim(run_dir)
    assert newest is not None and newest.epoch == 10


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
    class Retrying(Store):
        """Commits, loses the answer, tries again, and reports that the file is there."""

        def create(self, name: str, data: bytes) -> bool:
            super().create(name, data)
            return super().create(name, data)

    run_dir.store = Retrying(run_dir.url)
    assert create_claim(run_dir, ALICE)
    assert not create_claim(run_dir, replace(ALICE, member="bob#1"))


# --- damage -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"epoch": 4}',
        b'{"epoch": null}',
        b'{"epoch": []}',
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
    watch = Watch(timeout=5, patience=0, now=0)
    for now, decision in ((0, Follow(Claim(3, "", ""))), (6, Contend(4))):
        assert watch.look(newest_claim(run_dir), now) == decision
    assert create_claim(run_dir, Claim(4, "bob#1", "t"))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["epoch", "member", "target", "generation", "counter"]), inner
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
    assert claim is not None and claim.epoch == 3


def test_other_files_are_no_claims(run_dir: RunDirectory) -> None:
    for name in ("README", "000001.json.tmp", "-1.json", "²³.json", "x2.json"):
        run_dir.store.write(f"{LEADER}/{name}", b"{}")
    assert newest_claim(run_dir) is None


# --- a whole election ---------------------------------------------------------------------

TIMEOUT = 5.0
MEMBERS = st.sampled_from(["a", "b", "c"])


class Election(RuleBasedStateMachine):
    """Agents that look, contend, renew, stall and die, with clocks of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.run_dir = RunDirectory(f"memory://election-{id(self)}")
        self.now = 0.0
        skew = {"a": 0.0, "b": 1e6, "c": -3e5}
        self.skew = skew
        self.watches = {name: Watch(TIMEOUT, 0, skew[name]) for name in skew}
        self.leads: dict[str, Claim] = {}
        self.winners: dict[int, str] = {}

    def teardown(self) -> None:
        self.run_dir.store.delete("")

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=MEMBERS)
    def look(self, name: str) -> None:
        newest = newest_claim(self.run_dir)
        decision = self.watches[name].look(newest, self.now + self.skew[name])
        if isinstance(decision, Contend):
            claim = Claim(decision.epoch, name, f"{name}:1")
            if create_claim(self.run_dir, claim):
                assert decision.epoch not in self.winners, "two leaders of one epoch"
                self.winners[decision.epoch] = name
                self.leads[name] = claim

    @precondition(lambda self: self.leads)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.leads)))
        claim = replace(self.leads[name], counter=self.leads[name].counter + 1)
        if renew_claim(self.run_dir, claim):
            assert claim.epoch == max(self.winners), "a replaced leader went on"
            self.leads[name] = claim
        else:
            del self.leads[name]

    @precondition(lambda self: self.leads)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        del self.leads[data.draw(st.sampled_from(sorted(self.leads)))]

    @invariant()
    def epochs_are_won_in_order_without_gaps(self) -> None:
        assert sorted(self.winners) == list(range(1, len(self.winners) + 1))


TestElection = Election.TestCase
