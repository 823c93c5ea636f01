"""When a leader counts as out of reach, and when an agent that reaches none may lead itself."""

from __future__ import annotations

from dataclasses import replace

from trainer.agent.reach import LATE, OUTSIDE, Reach
from trainer.protocol.lease import Claim

THEIRS = Claim(1, "1/workerpool0-0#a", "10.0.0.1:5000", attempt=1)
OURS = Claim(1, "2/workerpool0-0#b", "10.1.0.1:5000", attempt=2)
NEXT = replace(THEIRS, term=2, member="3/workerpool0-0#c", attempt=3)


def renewed(claim: Claim, times: int = 1) -> Claim:
    return replace(claim, counter=claim.counter + times)


def test_a_leader_of_another_job_that_lives_and_is_not_reached_is_told_of_once() -> None:
    reach = Reach(2)
    assert not reach.look(THEIRS, 0.0)
    assert not reach.look(renewed(THEIRS), LATE)
    assert reach.look(renewed(THEIRS, 2), LATE + 1.0)
    assert not reach.look(renewed(THEIRS, 3), LATE + 2.0)


def test_each_leader_is_told_of() -> None:
    reach = Reach(2)
    for claim, began in ((THEIRS, 0.0), (NEXT, 100.0)):
        reach.look(claim, began)
        assert reach.look(renewed(claim), began + LATE + 1.0)


def test_a_leader_that_does_not_renew_its_claim_is_lost_and_not_out_of_reach() -> None:
    reach = Reach(2)
    reach.look(THEIRS, 0.0)
    assert not reach.look(THEIRS, 1000.0)
    reach.look(NEXT, 2000.0)
    reach.look(renewed(NEXT), 2001.0)
    assert not reach.look(renewed(NEXT), 2001.0 + LATE + 1.0)


def test_leaders_of_its_own_job_are_in_reach() -> None:
    reach = Reach(2)
    reach.look(OURS, 0.0)
    assert not reach.outside and reach.may_contend(0.0)
    assert not reach.look(renewed(OURS), 1000.0)


def test_who_has_reached_one_is_no_outsider_any_more() -> None:
    reach = Reach(2)
    reach.look(THEIRS, 0.0)
    reach.connected(THEIRS)
    reach.look(NEXT, 10.0)
    assert not reach.outside and reach.may_contend(10.0)
    assert not reach.look(renewed(NEXT), 1000.0)


def test_to_have_reached_its_own_jobs_leader_says_nothing_of_others() -> None:
    reach = Reach(2)
    reach.connected(OURS)
    reach.look(THEIRS, 0.0)
    assert reach.outside


def test_an_outsider_contends_only_when_nobody_has_renewed_a_claim_for_long() -> None:
    reach = Reach(2)
    reach.look(THEIRS, 0.0)
    reach.look(renewed(THEIRS), 20.0)
    assert not reach.may_contend(OUTSIDE + 10.0)
    assert reach.may_contend(OUTSIDE + 21.0)


def test_where_nobody_has_led_yet_anybody_may() -> None:
    assert Reach(2).may_contend(0.0)
