"""Which checkpoints stay, and what is left of those that go."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.checkpoints.world import Clock, World, state
from trainer.checkpoints.leftovers import STALE
from trainer.checkpoints.manifest import committed_steps, folder_of
from trainer.checkpoints.retention import Retention

T = TypeVar("T")


@pytest.mark.parametrize(
    "retention, kept",
    [
        (Retention(1), [6]),
        (Retention(3), [4, 5, 6]),
        (Retention(1, every=2), [2, 4, 6]),
        (Retention(1, best="accuracy"), [3, 6]),
        (Retention(1, best="-accuracy"), [2, 6]),
        (Retention(2, every=3, best="other"), [3, 5, 6]),
    ],
    ids=str,
)
def test_what_is_kept(tmp_path: Path, retention: Retention, kept: list[int]) -> None:
    world = World(str(tmp_path), 1, retention=retention)
    for step, accuracy in enumerate([0.5, 0.1, 0.9, 0.4, 0.8, 0.7], start=1):
        about = {"metrics": {"accuracy": accuracy}}
        assert world.ranks[0].save(state(step), step, about=about, wait=True)
    assert committed_steps(world.run_dirs[0]) == kept


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("odd", ["nan", "inf", "-inf", math.nan, math.inf, True, None, "x"])
def test_what_is_no_finite_number_is_never_the_best(sign: str, odd: Any) -> None:
    metrics = {step: {"score": 0.5 if step == 2 else odd} for step in range(1, 6)}
    assert Retention(1, best=f"{sign}score").surplus(5, metrics) == [1, 3, 4]


@pytest.mark.parametrize(
    "good, kept", [(0, [5]), (2, [2, 5]), (3, [3, 5]), (4, [4, 5]), (5, [5]), (None, [5])]
)
def test_the_newest_good_one_stays(good: int | None, kept: list[int]) -> None:
    """Until a step has been taken from the state of step 5: it may be of no use."""
    there: dict[int, dict[str, Any]] = {step: {} for step in range(2, 6)}
    surplus = Retention(1).surplus(5, there, good)
    assert [step for step in there if step not in surplus] == kept


@given(
    steps=st.sets(st.integers(1, 50), min_size=1),
    written=st.integers(1, 50),
    last=st.integers(1, 5),
    every=st.integers(0, 10),
)
def test_the_newest_is_never_surplus(steps: set[int], written: int, last: int, every: int) -> None:
    known = {step: {"loss": float(step)} for step in steps | {written}}
    surplus = Retention(last, every, "-loss").surplus(written, known)
    assert written not in surplus
    assert all(step < written for step in surplus)
    until_now = [step for step in known if step <= written]
    assert len(until_now) - len(surplus) >= min(last, len(until_now))


@pytest.mark.parametrize("wrong", [{"last": 0}, {"last": -1}, {"every": -5}])
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Retention(**wrong)


def test_leftovers_go_when_nothing_in_them_changes(tmp_path: Path) -> None:
    """By our own clock: another leader may be writing them, and clocks are never compared."""
    clock = Clock()
    world = World(str(tmp_path), 1, clock=clock, retention=Retention(9))
    store = world.run_dirs[0].store
    store.write(f"{folder_of(50)}/part-00000-of-00002-x.safetensors", b"left by a crash")
    world.save(1)
    clock.now += STALE - 1
    store.write(f"{folder_of(50)}/part-00001-of-00002-x.safetensors", b"still being written")
    world.save(2)
    clock.now += STALE - 1
    world.save(3)
    assert store.exists(folder_of(50))
    clock.now += 2
    world.save(4)
    assert not store.exists(folder_of(50))


def test_receipts_go_once_there_is_a_manifest(tmp_path: Path) -> None:
    world = World(str(tmp_path), 3)
    world.save(1)
    assert not [n for n in world.run_dirs[0].store.names(folder_of(1)) if "receipt" in n]
