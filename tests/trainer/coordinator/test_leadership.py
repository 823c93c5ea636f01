"""One leader's lease by itself: claimed, renewed, announced with, lost, and given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from trainer.coordinator.leadership import Leadership
from trainer.coordinator.limits import Limits
from trainer.protocol.lease import Claim, create_claim, newest_claim, read_claim, renew_claim
from trainer.rundir.directory import RunDirectory
from trainer.rundir.store import Store

LIMITS = Limits(lease_timeout=5.0, lease_renew=0.01)
MINE = Claim(3, "me#1", "10.0.0.1:7000", generation=4)


class Clock:
    """A clock that stands still unless it is set, or ticks at every look."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 100.0
        self._tick = tick

    def __call__(self) -> float:
        self.now += self._tick
        return self.now


class Away(Store):
    """A store that does not read, or does not write."""

    def __init__(self, run_dir: RunDirectory, *, reads: bool = True, writes: bool = True) -> None:
        super().__init__(run_dir.url)
        self.reads, self.writes = reads, writes

    def read(self, name: str, limit: int | None = None) -> bytes:
        if not self.reads:
            raise OSError("the store is away")
        return super().read(name, limit)

    def write(self, name: str, data: bytes | memoryview) -> None:
        if not self.writes:
            raise OSError("the store is away")
        super().write(name, data)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def asynchronous(
    test: Callable[[RunDirectory], Coroutine[Any, Any, None]],
) -> Callable[[RunDirectory], None]:
    def run(run_dir: RunDirectory) -> None:
        asyncio.run(test(run_dir))

    run.__name__ = test.__name__
    return run


async def claimed(run_dir: RunDirectory, clock: Callable[[], float] | None = None) -> Leadership:
    leadership = await Leadership.claim(run_dir, LIMITS, MINE, clock or Clock())
    assert leadership is not None
    return leadership


def newest(run_dir: RunDirectory) -> Claim:
    claim = newest_claim(run_dir)
    assert claim is not None
    return claim


@asynchronous
async def test_a_term_is_led_by_whoever_claims_it_first(run_dir: RunDirectory) -> None:
    leadership = await claimed(run_dir)
    assert leadership.holds() and leadership.term == 3
    other = Claim(3, "other#1", "10.0.0.2:7000")
    assert await Leadership.claim(run_dir, LIMITS, other) is None
    assert newest(run_dir) == MINE


@asynchronous
async def test_it_begins_with_the_newest_generation_of_any_leader_before(
    run_dir: RunDirectory,
) -> None:
    create_claim(run_dir, Claim(2, "old#1", "t", generation=6, counter=9))
    assert (await claimed(run_dir)).generation == 6


@asynchronous
async def test_it_does_not_begin_without_knowing_what_was_announced(run_dir: RunDirectory) -> None:
    create_claim(run_dir, Claim(2, "old#1", "t", generation=6, counter=9))
    run_dir.store = Away(run_dir, reads=False)
    assert await Leadership.claim(run_dir, LIMITS, MINE, Clock(tick=1.0)) is None


@asynchronous
async def test_it_is_over_when_somebody_could_have_found_its_claim_stale(
    run_dir: RunDirectory,
) -> None:
    clock = Clock()
    leadership = await claimed(run_dir, clock)
    clock.now += LIMITS.lease_timeout - 0.1
    assert leadership.holds() and not leadership.over.is_set()
    clock.now += 0.2
    assert not leadership.holds() and leadership.over.is_set()


@asynchronous
async def test_once_it_is_over_no_renewal_brings_it_back(run_dir: RunDirectory) -> None:
    leadership = await claimed(run_dir)
    leadership.step_down()
    assert not await leadership.announce(5)
    assert not leadership.holds()
    assert newest(run_dir) == MINE, "and it announces nothing more"


@asynchronous
async def test_it_is_kept_by_renewals_which_announce_the_newest_generation(
    run_dir: RunDirectory,
) -> None:
    clock = Clock()
    leadership = await claimed(run_dir, clock)
    keeping = asyncio.create_task(leadership.keep(lambda: 7))
    for _ in range(5):
        clock.now += LIMITS.lease_timeout - 1.0
        before = newest(run_dir).counter
        while newest(run_dir).counter < before + 2:  # one at least began after the clock was set
            await asyncio.sleep(0.01)
        assert leadership.holds()
    assert newest(run_dir).generation == leadership.generation == 7
    leadership.step_down()
    await keeping


@asynchronous
async def test_renewals_that_fail_for_too_long_end_it(run_dir: RunDirectory) -> None:
    leadership = await claimed(run_dir, Clock(tick=0.5))
    run_dir.store = Away(run_dir, writes=False)
    await leadership.keep(lambda: 4)
    assert leadership.over.is_set()


@asynchronous
async def test_a_renewal_counts_from_when_it_began(run_dir: RunDirectory) -> None:
    clock = Clock()
    leadership = await claimed(run_dir, clock)

    class Slow(Store):
        def write(self, name: str, data: bytes | memoryview) -> None:
            super().write(name, data)
            clock.now += 2 * LIMITS.lease_timeout

    run_dir.store = Slow(run_dir.url)
    assert not await leadership.announce(5), "a follower may have lost its patience meanwhile"
    assert leadership.over.is_set()


@asynchronous
async def test_a_generation_is_announced_durably(run_dir: RunDirectory) -> None:
    leadership = await claimed(run_dir)
    assert await leadership.announce(5)
    assert newest(run_dir).generation == 5
    assert await leadership.announce(4)
    assert newest(run_dir).generation == 5, "an older one takes nothing back"


@asynchronous
async def test_whoever_finds_a_later_term_announces_nothing_and_is_over(
    run_dir: RunDirectory,
) -> None:
    leadership = await claimed(run_dir)
    assert not leadership.is_superseded()
    create_claim(run_dir, Claim(4, "new#1", "t"))
    assert leadership.is_superseded() and leadership.holds(), "it has not noticed yet"
    assert not await leadership.announce(5)
    assert leadership.over.is_set()


@asynchronous
async def test_it_is_handed_over_when_a_later_term_begins(run_dir: RunDirectory) -> None:
    leadership = await claimed(run_dir)
    handing = asyncio.create_task(leadership.hand_over())
    await asyncio.sleep(0.2)
    assert leadership.holds() and not handing.done()
    create_claim(run_dir, Claim(4, "new#1", "t"))
    await handing
    assert leadership.over.is_set()


@asynchronous
async def test_who_resigns_says_so_in_the_claim(run_dir: RunDirectory) -> None:
    leadership = await claimed(run_dir)
    await leadership.announce(5)
    await leadership.resign()
    claim = read_claim(run_dir, 3)
    assert (claim.resigned, claim.generation) == (True, 5)
    assert not leadership.holds()


@asynchronous
async def test_what_an_earlier_leader_announced_meanwhile_is_known(run_dir: RunDirectory) -> None:
    """It announced before it could find the later claim, and found that afterwards."""
    create_claim(run_dir, Claim(2, "old#1", "t", generation=4))
    renew_claim(run_dir, Claim(2, "old#1", "t", generation=5, counter=1))
    assert (await claimed(run_dir)).generation == 5
