"""SIGKILL at every store operation of a save, on any rank and on two: nothing half or lost."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.checkpoints.interrupted import Interrupted, InThisThread, die, survives
from tests.trainer.checkpoints.world import Clock, World
from trainer.checkpoints import checkpoint as checkpoints
from trainer.checkpoints.manifest import committed_steps
from trainer.checkpoints.retention import Retention

RANKS = 3
SEED = 5
ORDERS = [(1, 2, 0), (0, 1, 2)]  # rank 0 finds all receipts, or it comes first


@pytest.fixture(autouse=True)
def in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork has no other threads."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no machine fails here
    monkeypatch.setattr(checkpoints, "ThreadPoolExecutor", InThisThread)


def world_in(path: Path, size: int) -> World:
    """A world in which nobody really waits, that keeps one checkpoint."""
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.now += 60 * seconds  # rank 0 looks for the others' receipts a few times only

    return World(str(path), size, clock=clock, sleep=sleep, retention=Retention(1))


def begun(path: Path) -> World:
    """A world that has a checkpoint of step 1."""
    world = world_in(path, RANKS)
    world.save(1, [1, 2, 0])
    assert committed_steps(world.run_dirs[0]) == [1]
    return world


def save(world: World, rank: int) -> Callable[[], object]:
    return lambda: world.save(2, [rank])


def operations(path: Path, order: tuple[int, ...]) -> list[int]:
    """How many store operations the save of step 2 takes on each rank."""
    world = begun(path)
    stores = [Interrupted(one.url, -1, False, lambda: None) for one in world.run_dirs]
    for run_dir, store in zip(world.run_dirs, stores, strict=True):
        run_dir.store = store
    for rank in order:
        save(world, rank)()
    assert committed_steps(world.run_dirs[0]) == [2]
    return [store.count for store in stores]


def save_and_die(world: World, order: tuple[int, ...], kills: dict[int, int]) -> None:
    """Each rank saves in a process of its own; those in ``kills`` die at that operation."""
    for rank, at in kills.items():
        world.run_dirs[rank].store = Interrupted(world.run_dirs[rank].url, at, False, die)
    lived = {rank for rank in order if survives(save(world, rank))}
    assert lived | {*kills} == {*order}


def newest(path: Path) -> int:
    """The step that a later world of two goes on from; it is whole, and the next save cleans up."""
    fresh = world_in(path, 2)
    found = fresh.loaded()
    assert found is not None, "the older checkpoint is lost"
    step, value = found
    assert value == 1000.0 * step
    assert step == committed_steps(fresh.run_dirs[0])[-1], "not the newest"
    assert fresh.told("checkpoint_rejected") == [], "something half was visible"
    fresh.save(3, [1, 0])
    assert committed_steps(fresh.run_dirs[0]) == [3]
    assert fresh.loaded() == (3, 3000.0)
    return step


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("rank", range(RANKS))
def test_one_rank_is_killed_at_any_operation(
    tmp_path: Path, rank: int, order: tuple[int, ...]
) -> None:
    loaded = []
    for at in range(operations(tmp_path / "counted", order)[rank]):
        world = begun(tmp_path / str(at))
        save_and_die(world, order, {rank: at})
        loaded.append(newest(tmp_path / str(at)))
    assert loaded[0] == 1
    assert loaded == sorted(loaded), "what is there at one operation is gone at a later one"


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_two_ranks_are_killed_at_any_two_operations(tmp_path: Path, order: tuple[int, ...]) -> None:
    counts = operations(tmp_path / "counted", order)
    pairs = [
        {a: at, b: then}
        for a, b in ((0, 1), (0, 2), (1, 2))
        for at in range(counts[a])
        for then in range(counts[b])
    ]
    first = next(kills for kills in pairs if set(kills.values()) == {0})
    loaded = []
    for number, kills in enumerate([first, *random.Random(SEED).sample(pairs, 12)]):
        print(f"seed {SEED}, killed: {kills}")
        save_and_die(begun(tmp_path / str(number)), order, kills)
        loaded.append(newest(tmp_path / str(number)))
    assert loaded[0] == 1, "two ranks wrote nothing, and yet there is a checkpoint of all"
    assert {*loaded} <= {1, 2}
