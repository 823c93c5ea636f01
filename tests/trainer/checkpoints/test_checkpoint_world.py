"""Checkpoints of worlds with several ranks: written in shares, loaded by worlds of any size."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage import StorageServer
from tests.trainer.checkpoints.world import Clock, ThreadExchange, World, state, value_of
from tests.trainer.rundir.stores import gs_store
from trainer.checkpoints import checkpoint as checkpoints
from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.manifest import MANIFEST, committed_steps, folder_of, read_manifest
from trainer.checkpoints.restore import NoneValid
from trainer.checkpoints.retention import Retention
from trainer.rundir.directory import RunDirectory
from trainer.rundir.retry import StoreUnavailable, patiently
from trainer.rundir.store import Store

T = TypeVar("T")


@pytest.mark.parametrize("writers", [1, 2, 3, 5])
@pytest.mark.parametrize("readers", [1, 2, 4])
def test_a_world_of_any_size_loads_what_any_other_wrote(
    tmp_path: Path, writers: int, readers: int
) -> None:
    World(str(tmp_path), writers, part=200).save(7)
    assert World(str(tmp_path), readers).loaded() == (7, 7000.0)


def test_each_byte_is_read_once_for_the_whole_world(tmp_path: Path) -> None:
    World(str(tmp_path), 4).save(1)
    manifest = read_manifest(RunDirectory(str(tmp_path)), 1)
    world = World(str(tmp_path), 3)
    read: list[str] = []
    for run_dir in world.run_dirs:
        run_dir.store = Recorded(str(tmp_path), read)
    assert world.loaded() == (1, 1000.0)
    shards = [name for name in read if name.endswith(".safetensors")]
    assert sorted(shards) == sorted(f"{folder_of(1)}/{one.name}" for one in manifest.shards)


class Recorded(Store):
    """A store that notes what is read."""

    def __init__(self, url: str, read: list[str]) -> None:
        super().__init__(url)
        self._read = read

    def read(self, name: str, limit: int | None = None) -> bytes:
        self._read.append(name)
        return super().read(name, limit)


def test_each_rank_writes_its_share(tmp_path: Path) -> None:
    World(str(tmp_path), 4).save(1)
    sizes = [one.bytes for one in read_manifest(RunDirectory(str(tmp_path)), 1).shards]
    assert len(sizes) == 4 and max(sizes) - min(sizes) < 400  # headers differ, too


def test_the_ranks_may_come_in_any_order(tmp_path: Path) -> None:
    """Whoever is last makes the manifest: here, rank 0 has nobody to wait for."""
    world = World(str(tmp_path), 3)
    world.save(1, [2])
    world.save(1, [1])
    assert committed_steps(world.run_dirs[0]) == []
    world.save(1, [0])
    assert committed_steps(world.run_dirs[0]) == [1]
    assert world.told("checkpoint_committed") == [1]


def test_survivors_complete_what_a_lost_leader_had_written(tmp_path: Path) -> None:
    """Rank 0 is gone after its share: the last of the others makes the manifest."""
    clock = Clock()
    world = World(str(tmp_path), 2, clock=clock)
    first = world.ranks[0]
    assert first.save(state(1), 1, rank=0, size=2, world="1-1")
    first.enter("1-2")
    give_up(clock, first)
    world.reports.clear()
    world.save(1, [1])
    assert world.told("checkpoint_committed") == [1]
    assert World(str(tmp_path), 2).loaded() == (1, 1000.0)


def test_ranks_that_hold_different_states_make_no_checkpoint(tmp_path: Path) -> None:
    """It would mix them; the older one stays."""
    world = World(str(tmp_path), 2, retention=Retention(1))
    world.save(1)
    for rank in (1, 0):
        tree = state(2, salt=rank)
        assert world.ranks[rank].save(tree, 2, rank=rank, size=2, world="1-1", digest=7 + rank)
        world.ranks[rank].flush()
    assert world.told("checkpoint_failed") == [2]
    assert World(str(tmp_path), 2).loaded() == (1, 1000.0)


def test_what_a_lost_rank_did_not_write_is_abandoned(tmp_path: Path) -> None:
    clock = Clock()
    world = World(str(tmp_path), 2, clock=clock)
    world.save(1)
    assert world.ranks[0].save(state(2), 2, rank=0, size=2, world="1-1")
    world.ranks[0].enter("1-2")
    give_up(clock, world.ranks[0])
    assert world.told("checkpoint_failed") == [2]
    assert World(str(tmp_path), 2).loaded() == (1, 1000.0)


def test_the_next_world_does_not_wait_for_the_lost_one(tmp_path: Path) -> None:
    clock = Clock()
    world = World(str(tmp_path), 2, clock=clock)
    first = world.ranks[0]
    assert first.save(state(1), 1, rank=0, size=2, world="1-1")
    assert first.busy("1-1") and not first.busy("1-2")
    assert not first.save(state(2), 2, rank=0, size=2, world="1-1")
    assert first.save(state(2), 2, rank=0, size=1, world="1-2", wait=True)
    assert committed_steps(world.run_dirs[0]) == [2]
    give_up(clock, first)
    assert world.told("checkpoint_failed") == [1]


def test_a_rank_that_is_lost_during_the_last_save_is_not_waited_for(tmp_path: Path) -> None:
    clock = Clock()
    world = World(str(tmp_path), 3, clock=clock)
    lost = threading.Event()
    first = world.ranks[0]
    assert first.save(state(1), 1, size=3, world="1-1", lost=lost.is_set)
    lost.set()
    give_up(clock, first)
    assert clock.now < checkpoints.PATIENCE
    assert "2 of 3 ranks did not write" in world.reports[-1][1]["reason"]
    assert first.save(state(1), 1, world="1-1-alone", wait=True), "whoever holds it writes it all"
    assert World(str(tmp_path), 2).loaded() == (1, 1000.0)


def test_the_others_are_waited_for_as_long_as_they_come(tmp_path: Path) -> None:
    """Rank 1 is lost when it has written; rank 2 takes long."""
    clock = Clock()
    world = World(str(tmp_path), 3, clock=clock)
    assert world.ranks[0].save(state(1), 1, size=3, world="1-1", lost=lambda: True)
    clock.now += 0.9 * checkpoints.LOST_PATIENCE
    world.save(1, [1])
    clock.now += 0.9 * checkpoints.LOST_PATIENCE
    world.save(1, [2])
    world.ranks[0].flush()
    assert world.told("checkpoint_failed") == []
    assert World(str(tmp_path), 2).loaded() == (1, 1000.0)


# --- a notice for everybody ---------------------------------------------------------------


class Slow(Store):
    """Takes a second of the test's clock for a shard."""

    def __init__(self, url: str, clock: Clock) -> None:
        super().__init__(url)
        self._clock = clock

    def write(self, name: str, data: bytes | memoryview) -> None:
        if name.endswith(".safetensors"):
            self._clock.now += 1.0
        super().write(name, data)


@pytest.fixture
def slow(tmp_path: Path) -> World:
    """A world of one whose state takes a second to write, as it has measured."""
    clock = Clock()
    world = World(str(tmp_path), 1, clock=clock, retention=Retention(9))
    world.run_dirs[0].store = Slow(str(tmp_path), clock)
    world.save(1)
    assert world.ranks[0].seconds == pytest.approx(1.0 + checkpoints.COMMIT)
    return world


def test_what_fits_into_the_notice_is_written(slow: World) -> None:
    needed = slow.ranks[0].seconds
    assert slow.ranks[0].save(state(2), 2, until=slow.clock() + needed + 0.01, world="left")
    slow.ranks[0].flush()
    assert slow.told("checkpoint_committed") == [1, 2]


def test_what_does_not_fit_is_not_begun_and_an_event_says_why(slow: World) -> None:
    until = slow.clock() + slow.ranks[0].seconds - 0.01
    assert not slow.ranks[0].save(state(2), 2, until=until, world="left")
    assert slow.told("checkpoint_skipped") == [2]
    assert "2.0 s are left of the notice" in slow.reports[-1][1]["reason"]
    assert committed_steps(slow.run_dirs[0]) == [1]


def test_without_a_measurement_it_is_tried(tmp_path: Path) -> None:
    world = World(str(tmp_path), 1)
    assert world.ranks[0].seconds == 0.0
    assert world.ranks[0].save(state(1), 1, until=0.001, world="left")
    world.ranks[0].flush()
    assert world.told("checkpoint_committed") == [1]


def give_up(clock: Clock, checkpointer: Checkpointer) -> None:
    """Time passes until the checkpointer waits for nobody any more."""
    clock.passes = True
    checkpointer.flush()
    clock.passes = False


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"[]",
        lambda data: b"{}",
        lambda data: data.replace(b'"bytes": ', b'"bytes": 1'),
        lambda data: data.replace(b'"sha256": "', b'"sha256": "0', 1),
        lambda data: data.replace(b'"layout": "', b'"layout": "0'),
        lambda data: data.replace(b'"rank": 1', b'"rank": 0'),
        lambda data: data.replace(b"part-", b"../part-"),
    ],
)
@pytest.mark.parametrize("by", [0, 1])
def test_a_damaged_receipt_makes_no_checkpoint_and_costs_none(
    tmp_path: Path, damage: Callable[[bytes], bytes], by: int
) -> None:
    """Whoever is last would make the manifest; the older checkpoint must not be retired for it."""
    world = World(str(tmp_path), 2, clock=Clock(), retention=Retention(1))
    world.save(1)
    other = 1 - by
    clock = world.ranks[other]._clock
    assert isinstance(clock, Clock)
    assert world.ranks[other].save(state(2), 2, rank=other, size=2, world="1-1", lost=lambda: True)
    if other == 0:
        give_up(clock, world.ranks[0])
    world.ranks[other].flush()
    (receipt,) = (tmp_path / folder_of(2)).glob("receipt-*")
    whole = receipt.read_bytes()
    receipt.write_bytes(damage(whole))
    unharmed = damage(whole) == whole  # not every damage is to every receipt
    world.save(2, [by])
    assert committed_steps(world.run_dirs[0]) == ([2] if unharmed else [1])
    step = 2 if unharmed else 1
    assert World(str(tmp_path), 2).loaded() == (step, 1000.0 * step)


def test_two_leaders_that_write_one_step_are_never_mixed(tmp_path: Path) -> None:
    """Each shard, each receipt belongs to one writing; one manifest wins."""
    for turn in range(5):
        url = str(tmp_path / str(turn))
        worlds = [World(url, 2, "1-5"), World(url, 2, "2-5"), World(url, 3, "2-5")]
        jobs = [(world, rank) for world in worlds for rank in range(world.size)]
        random.Random(turn).shuffle(jobs)
        start = threading.Barrier(len(jobs))

        def write(job: tuple[World, int], worlds: list[World] = worlds, start: Any = start) -> None:
            world, rank = job
            start.wait()
            world.save(1, [rank], salt=worlds.index(world))

        with ThreadPoolExecutor(len(jobs)) as pool:
            list(pool.map(write, jobs))
        assert sum(len(world.told("checkpoint_committed")) for world in worlds) == 1
        found = World(url, 2).loaded()
        assert found is not None and found[1] in (1000.0, 1001.0, 1002.0)


class Unreliable(Store):
    """Fails at random: before an operation, or after it, as a lost answer."""

    def __init__(self, url: str, rate: float, seed: int) -> None:
        super().__init__(url)
        self._random = random.Random(seed)
        self._rate = rate
        self._lock = threading.Lock()

    def _fails(self) -> bool:
        with self._lock:
            return self._random.random() < self._rate

    def _operation(self, operation: Callable[[], T]) -> T:
        if self._fails():
            raise StoreUnavailable("503")
        done = operation()
        if self._fails():
            raise StoreUnavailable("the answer was lost")
        return done

    def read(self, name: str, limit: int | None = None) -> bytes:
        return self._operation(lambda: Store.read(self, name, limit))

    def write(self, name: str, data: bytes | memoryview) -> None:
        self._operation(lambda: Store.write(self, name, data))

    def create(self, name: str, data: bytes) -> bool:
        return self._operation(lambda: Store.create(self, name, data))

    def names(self, folder: str = "") -> list[str]:
        return self._operation(lambda: Store.names(self, folder))

    def delete(self, name: str) -> None:
        self._operation(lambda: Store.delete(self, name))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.sampled_from([0.02, 0.1, 0.3]),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=5),
)
def test_a_store_that_fails_at_random_never_loses_or_mixes(
    seed: int, rate: float, sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What was told as committed is there, whole, until it is not kept any more."""
    url = str(tmp_path_factory.mktemp("random"))
    committed: list[int] = []
    for number, size in enumerate(sizes, start=1):
        clock = Clock()
        world = World(url, size, f"1-{number}", clock=clock, retention=Retention(1))
        for rank, run_dir in enumerate(world.run_dirs):
            run_dir.store = Unreliable(url, rate, seed + 10 * number + rank)
        for rank in range(size):
            world.ranks[rank].save(state(number), number, rank=rank, size=size, world=world.name)
        for rank in range(1, size):
            world.ranks[rank].flush()
        world.ranks[0].enter("another")
        give_up(clock, world.ranks[0])
        committed += world.told("checkpoint_committed")
    there = committed_steps(RunDirectory(url))
    found = World(url, 2).loaded()
    if there:
        assert found == (there[-1], 1000.0 * there[-1])
    else:
        assert found is None
    assert not committed or (found is not None and found[0] >= committed[-1])


def test_a_shard_that_one_rank_cannot_read_rejects_it_for_all(tmp_path: Path) -> None:
    world = World(str(tmp_path), 3)
    world.save(1)
    world.save(2)
    damaged = read_manifest(world.run_dirs[0], 2).shards[1].name
    (tmp_path / folder_of(2) / damaged).write_bytes(b"damaged")
    fresh = World(str(tmp_path), 2)
    assert fresh.loaded() == (1, 1000.0)
    assert fresh.told("checkpoint_rejected") == [2]


def test_none_valid_is_an_error_on_all(tmp_path: Path) -> None:
    world = World(str(tmp_path), 2)
    world.save(1)
    (tmp_path / folder_of(1) / MANIFEST).write_bytes(b"{")
    with pytest.raises(NoneValid):
        world.load()


@pytest.mark.parametrize("away", [0, 1])
def test_a_store_that_is_away_is_not_a_damaged_checkpoint(tmp_path: Path, away: int) -> None:
    """To go back to an older one would lose steps that are safe."""
    world = World(str(tmp_path), 2)
    world.save(1)
    world.save(2)
    world.run_dirs[away].store = Unreliable(str(tmp_path), 1.0, 0)
    with pytest.raises(StoreUnavailable):
        world.load()
    assert world.told("checkpoint_rejected") == []


def test_training_goes_on_while_the_store_is_away(tmp_path: Path) -> None:
    world = World(str(tmp_path), 1)
    store = world.run_dirs[0].store
    world.run_dirs[0].store = Unreliable(str(tmp_path), 1.0, 0)
    world.save(1)
    world.save(2)
    assert world.told("checkpoint_failed") == [1, 2]
    assert world.ranks[0].failures == 2
    world.run_dirs[0].store = store
    world.save(3)
    assert world.told("checkpoint_committed") == [3]
    assert world.ranks[0].failures == 0


def test_a_cold_start_waits_for_the_store_on_all_ranks(tmp_path: Path) -> None:
    world = World(str(tmp_path), 2)
    world.save(1)
    there = world.run_dirs[1].store
    world.run_dirs[1].store = Unreliable(str(tmp_path), 1.0, 0)
    exchange, waited = ThreadExchange(2), [0, 0]

    def find(rank: int) -> tuple[Any, int] | None:
        def sleep(seconds: float) -> None:
            waited[rank] += 1
            if waited[rank] == 3:
                world.run_dirs[1].store = there

        return patiently(lambda: world.load_as(exchange.of(rank)), world._report, sleep=sleep)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(find, range(2)))
    assert [one and (one[1], value_of(one[0])) for one in found] == [(1, 1000.0)] * 2
    assert waited == [3, 3]
    assert {name for name, _ in world.reports} >= {"store_unavailable"}


# --- through gcsfs ------------------------------------------------------------------------


def test_a_world_saves_and_loads_through_gcsfs(server: StorageServer) -> None:
    url = "gs://bucket/checkpoints-of-a-world"
    world = World("memory://unused", 2)
    for run_dir in world.run_dirs:
        run_dir.store = gs_store(server, url)
    world.save(1)
    server.fail(path="part-00001", method="GET", status=503)
    server.fail(path="/upload/", method="POST", skip=2, cut=True, when="after")
    world.save(2)
    assert world.told("checkpoint_committed") == [1, 2]
    assert world.loaded() == (2, 2000.0)


def test_all_ranks_write_anew_what_they_found_damaged(tmp_path: Path) -> None:
    world = World(str(tmp_path), 3)
    for step in (1, 2):
        world.save(step)
    (tmp_path / folder_of(2) / MANIFEST).write_bytes(b"{")
    again = World(str(tmp_path), 3)
    assert again.loaded() == (1, 1000.0)
    for rank in again.ranks:
        rank.begins(1, damaged=[2])
    again.save(2)
    assert again.told("checkpoint_committed") == [2]
    assert World(str(tmp_path), 2).loaded() == (2, 2000.0)
