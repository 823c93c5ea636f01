"""How far a worker is: its step, and the metrics of steps, each sent once by whoever is rank 0."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.engine.generations import Generations
from trainer.engine.portable import Portable
from trainer.engine.progress import REMEMBERED, Applied, Progress, StepLog
from trainer.protocol import messages
from trainer.protocol.channel import LoneChannel
from trainer.protocol.messages import Steps


def log_of(*steps: tuple[int, int]) -> StepLog:
    """A log of (generation, step), the loss of a step being a tenth of its number."""
    log = StepLog()
    for generation, step in steps:
        log.add(Applied(generation, step, {"loss": step / 10}))
    return log


def test_consecutive_steps_of_a_generation_are_one_batch() -> None:
    taken = log_of((1, 1), (1, 2), (1, 3)).take()
    assert taken == [Steps(1, 1, {"loss": [0.1, 0.2, 0.3]}, count=3)]


def test_what_was_told_is_forgotten() -> None:
    log = log_of((1, 1))
    log.take()
    assert log.take() == []
    log.add(Applied(1, 2, {"loss": 0.2}))
    assert log.take() == [Steps(1, 2, {"loss": [0.2]}, count=1)]


def test_another_generation_a_gap_or_other_metrics_begin_a_batch() -> None:
    log = log_of((1, 1), (2, 2), (2, 4))
    log.add(Applied(2, 5, {"loss": 0.5, "norm": 1.0}))
    assert log.take() == [
        Steps(1, 1, {"loss": [0.1]}, count=1),
        Steps(2, 2, {"loss": [0.2]}, count=1),
        Steps(2, 4, {"loss": [0.4]}, count=1),
        Steps(2, 5, {"loss": [0.5], "norm": [1.0]}, count=1),
    ]


def test_steps_that_the_world_does_again_are_dropped() -> None:
    log = log_of((1, 7), (1, 8), (1, 9))
    log.forget_after(7)
    log.add(Applied(2, 8, {"loss": 0.8}))
    assert [(one.first, one.metrics) for one in log.take()] == [
        (7, {"loss": [0.7]}),
        (8, {"loss": [0.8]}),
    ]


def test_only_the_newest_are_remembered() -> None:
    (batch,) = log_of(*((1, step) for step in range(1, REMEMBERED + 11))).take()
    assert batch.first == 11
    assert len(batch.metrics["loss"]) == REMEMBERED


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9), st.booleans())))
def test_nothing_is_lost_or_told_twice(steps: list[tuple[int, int, bool]]) -> None:
    log = StepLog()
    told: list[tuple[int, int, float]] = []

    def tell() -> None:
        for batch in log.take():
            for number, loss in enumerate(batch.metrics["loss"], batch.first):
                told.append((batch.generation, number, loss))

    for generation, step, then_tell in steps:
        log.add(Applied(generation, step, {"loss": float(step)}))
        if then_tell:
            tell()
    tell()
    assert told == [(generation, step, float(step)) for generation, step, _ in steps]


class Worker:
    """A rank that takes steps of a tenth of a second."""

    def __init__(self, rank: int = 0, total_steps: int | None = None) -> None:
        self.told: list[messages.FromWorker] = []
        channel = LoneChannel(self.told.append)
        self.now = 0.0
        generations = Generations(channel, self.clock)
        generations.number, generations.rank = 4, rank
        self.state = Portable()
        self.progress = Progress(generations, self.state, lambda: 1.5, total_steps, self.clock)

    def clock(self) -> float:
        return self.now

    @property
    def batches(self) -> list[Steps]:
        return [message for message in self.told if isinstance(message, Steps)]

    def steps(self, count: int, metrics: bool = True, samples: int = 0) -> None:
        for _ in range(count):
            self.state.step += 1
            self.progress.completed({"loss": self.state.step / 10} if metrics else {}, samples)
            self.now += 0.1


def test_the_step_is_sent_several_times_a_second_and_no_metric_twice() -> None:
    worker = Worker(total_steps=100)
    worker.steps(5)
    assert worker.batches == [
        Steps(4, 1, {"loss": [0.1]}, 100, count=1),
        Steps(4, 2, {"loss": [0.2, 0.3]}, 100, count=2, seconds=0.2),
        Steps(4, 4, {"loss": [0.4, 0.5]}, 100, count=2, seconds=0.2),
    ]
    assert [one for one in worker.told if isinstance(one, messages.Progress)] == [
        messages.Progress(generation=4, step=step, saving=1.5) for step in (1, 3, 5)
    ]


def test_samples_are_those_of_the_seconds_that_are_told() -> None:
    worker = Worker()
    worker.steps(5, samples=32)
    told = [(one.count, one.seconds, one.samples) for one in worker.batches]
    assert told == [(1, 0.0, 0), (2, 0.2, 64), (2, 0.2, 64)], "the first step of a world takes none"


def test_what_batches_were_waited_for_is_of_the_seconds_that_are_told() -> None:
    log = StepLog()
    for step, seconds in enumerate([0.0, 0.5, 0.5], 1):  # the first step of a world takes none
        log.add(Applied(1, step, {}, seconds, waited=0.1))
    (told,) = log.take()
    assert (told.seconds, told.data_wait) == (1.0, 0.2)
    log.add(Applied(1, 4, {}, 0.5))
    assert log.take()[0].data_wait is None, "nobody knows: the program makes its batches itself"


def test_only_rank_0_sends_metrics_and_another_that_becomes_it_has_them() -> None:
    worker = Worker(rank=1)
    worker.steps(3)
    assert worker.told and not worker.batches
    worker.progress._generations.rank = 0
    worker.progress.send()
    nobody_knows = None
    (batch,) = worker.batches
    assert batch == Steps(
        4, 1, {"loss": [0.1, 0.2, 0.3]}, nobody_knows, count=3, seconds=0.2, age=0.1
    ), "the first step of a world takes none, and the last of these is a while ago"


def test_the_first_step_of_a_world_is_told_before_anything_is_evaluated() -> None:
    worker = Worker()
    worker.steps(3)
    worker.state.step = 1
    worker.progress.enter()
    worker.steps(1)  # at once, and after the one that was told at last
    assert [(one.first, one.count) for one in worker.batches] == [(1, 1), (2, 2), (2, 1)]


def test_a_world_that_goes_back_sends_its_own_steps() -> None:
    worker = Worker(rank=1)
    worker.steps(3)
    worker.state.step = 1
    worker.progress.enter()
    worker.progress._generations.rank = 0
    worker.progress.send()
    assert [(one.first, one.metrics) for one in worker.batches] == [(1, {"loss": [0.1]})]


def test_steps_without_metrics_are_counted() -> None:
    worker = Worker()
    worker.steps(5, metrics=False)
    assert [(one.first, one.count, one.metrics) for one in worker.batches] == [
        (1, 1, {}),
        (2, 2, {}),
        (4, 2, {}),
    ]


def test_the_first_step_of_each_world_is_told_with_what_it_took() -> None:
    worker = Worker()
    worker.now = 2.5
    worker.steps(3)
    worker.now += 7.0
    worker.progress._generations.since = worker.now
    worker.now += 0.5  # what its loop prepares is in it
    worker.progress.enter()
    worker.now += 1.0
    worker.steps(2)
    told = [one.fields for one in worker.told if isinstance(one, messages.Event)]
    assert told == [
        {"generation": 4, "step": 1, "seconds": 2.5},
        {"generation": 4, "step": 4, "seconds": 1.5},
    ]


def test_where_workers_have_died_each_step_is_told_at_once() -> None:
    """Else whoever dies in what follows a step would seem to have died in it."""
    told: list[messages.FromWorker] = []
    generations, state = Generations(LoneChannel(told.append)), Portable()
    progress = Progress(generations, state, lambda: 0.0, clock=lambda: 1.0)
    for careful in (False, True):
        generations.careful = careful
        told.clear()
        for _ in range(3):
            state.step += 1
            progress.completed({})
        steps = [one.step for one in told if isinstance(one, messages.Progress)]
        assert steps == ([4, 5, 6] if careful else [1])
