"""When a checkpoint is due."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.checkpoints.schedule import AGAIN, Schedule


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_by_time() -> None:
    clock = Clock()
    schedule = Schedule(10.0, 0, clock)
    clock.now = 9.0
    assert not schedule.due(1000)
    clock.now = 10.0
    assert schedule.due(1000)
    schedule.saved(1000)
    assert not schedule.due(2000)


def test_one_that_failed_is_tried_again_sooner() -> None:
    clock = Clock()
    schedule = Schedule(3600.0, 0, clock)
    clock.now = AGAIN
    assert not schedule.due(10)
    assert schedule.due(10, failed=True)
    schedule.saved(10)
    assert not schedule.due(11, failed=True)


@given(every=st.integers(1, 20), first=st.integers(0, 50))
def test_by_steps_it_is_due_at_multiples(every: int, first: int) -> None:
    schedule = Schedule(0.0, every, Clock())
    schedule.saved(first)
    saved = []
    for step in range(first + 1, first + 100):
        if schedule.due(step):
            saved.append(step)
            schedule.saved(step)
    assert saved == [step for step in range(first + 1, first + 100) if step % every == 0]


def test_one_that_was_put_off_is_due_at_once() -> None:
    """The one before was still being written."""
    schedule = Schedule(0.0, 10, Clock())
    assert schedule.due(10) and schedule.due(13)
    schedule.saved(13)
    assert not schedule.due(14) and schedule.due(20)


def test_never() -> None:
    clock = Clock()
    schedule = Schedule(0.0, 0, clock)
    clock.now = 1e9
    assert not schedule.due(10**9)
