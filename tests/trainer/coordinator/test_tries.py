"""When a torchrun script that has failed is started once more."""

from __future__ import annotations

from trainer.coordinator.tries import AT_ONCE, PATIENCE, Tries
from trainer.protocol.signals import RankFailed
from trainer.protocol.world import MemberId

IMPORT = 'Traceback (most recent call last):\n  File "a.py", line 1\nImportError: no module x'


def failure(
    rank: int, code: int = 1, seconds: float = 2.0, reason: str = "KeyError: 'a'"
) -> RankFailed:
    return RankFailed(MemberId(f"workerpool1-{rank}", "0"), 1, rank, code, seconds, reason)


def after(*failures: RankFailed, tries: Tries | None = None, size: int = 2) -> Tries:
    tries = tries or Tries(max_restarts=2)
    tries.begin(size)
    for one in failures:
        tries.fail(one, 0.0)
    return tries


def test_one_that_fails_on_every_rank_at_once_is_tried_once() -> None:
    why = after(failure(1, reason=IMPORT), failure(0, reason=IMPORT)).left()
    assert why is not None and why.id == "SW5020"
    assert why.text == (
        "the script fails at once on every rank\n"
        f"ranks 0-1 (first workerpool1-1): exit code 1\n{IMPORT}"
    )


def test_it_is_tried_again_when_a_rank_fails_alone_or_otherwise_than_others() -> None:
    assert after(failure(1)).left() is None
    assert after(failure(0), failure(1, reason="connection closed")).left() is None
    assert after(failure(0), failure(1, code=2)).left() is None


def test_who_was_killed_may_have_been_killed_by_chance() -> None:
    killed = "killed by SIGKILL"
    assert after(failure(0, -9, reason=killed), failure(1, -9, reason=killed)).left() is None


def test_what_has_run_for_a_while_has_not_failed_at_once() -> None:
    late = AT_ONCE + 1
    assert after(failure(0, seconds=late), failure(1, seconds=late)).left() is None


def test_failures_in_a_row_end_the_run_with_every_ranks_own_reason() -> None:
    tries = Tries(max_restarts=2)
    for _ in range(2):
        assert after(failure(0), tries=tries, size=3).left() is None
    after(failure(2, -11, reason="killed by SIGSEGV"), failure(0), failure(1), tries=tries, size=3)
    why = tries.left()
    assert why is not None and why.id == "SW5021"
    assert why.text == (
        "the script has failed 3 times in a row without progress\n"
        "rank 2 (first workerpool1-2): signal 11\nkilled by SIGSEGV\n"
        "ranks 0-1 (first workerpool1-0): exit code 1\nKeyError: 'a'"
    )


def test_without_restarts_the_first_failure_is_the_last() -> None:
    why = after(failure(0), tries=Tries(max_restarts=0)).left()
    assert why is not None and why.text.startswith("the script has failed once")


def test_progress_makes_the_count_begin_anew() -> None:
    tries = Tries(max_restarts=1)
    for _ in range(5):
        assert after(failure(0), tries=tries).left() is None
        tries.progress()


def test_a_world_that_has_lost_a_machine_does_not_count() -> None:
    tries = Tries(max_restarts=0)
    for _ in range(5):
        after(failure(0), failure(1), tries=tries)
        tries.excuse()
        assert tries.left() is None


def test_a_world_without_failures_is_no_try() -> None:
    assert after(tries=Tries(max_restarts=0)).left() is None


def test_those_who_may_all_fail_at_once_are_waited_for() -> None:
    tries = after(failure(0))
    assert not tries.to_be_left(PATIENCE / 2)
    assert tries.to_be_left(PATIENCE * 2), "but not for long"
    assert after(failure(0), failure(1)).to_be_left(0.0), "all have"
    assert not after().to_be_left(100.0), "nobody has failed"


def test_nobody_is_waited_for_once_it_is_clear_that_not_all_fail_alike() -> None:
    assert after(failure(0, -9, reason="killed by SIGKILL")).to_be_left(0.0)
    assert after(failure(0), failure(1, reason="connection closed"), size=3).to_be_left(0.0)
    assert not after(failure(0), failure(1), size=3).to_be_left(0.0)


def test_after_progress_a_failure_ends_its_world_at_once() -> None:
    tries = Tries(max_restarts=1)
    tries.progress()
    assert after(failure(0), tries=tries).to_be_left(0.0)


def test_a_crowd_that_fails_alike_is_told_of_in_few_words() -> None:
    crowd = [failure(rank) for rank in (5, 0, 1, 2, 7)]
    why = after(*crowd, tries=Tries(0), size=8).left()
    assert why is not None
    assert why.text.splitlines()[1] == "ranks 0-2, 5, 7 (first workerpool1-5): exit code 1"


def test_more_ways_to_fail_than_anybody_reads_are_counted() -> None:
    crowd = [failure(rank, reason=f"error {rank}") for rank in range(6)]
    why = after(*crowd, tries=Tries(0), size=8).left()
    assert why is not None and why.text.endswith("and 2 more ways in which ranks failed")
