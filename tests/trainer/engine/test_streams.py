"""Data without a length: each sample once in any world, read on from where the state says."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.data.sources import Counting, Log, Seeking
from tests.trainer.engine.loops import CHANGING, Outcome, trained, travelled
from tests.trainer.ranks import alone
from trainer.checkpoints.manifest import committed_steps
from trainer.protocol.session import CheckpointSettings, Session, current_session

BATCH, UNIT, STEPS, LENGTH = 12, 3, 12, 50


def loop(
    workers: int,
    log: list[Any],
    source: Any = Seeking,
    unit: int = UNIT,
    shuffle: int = 0,
    kills: Collection[int] = (),
    ends: int = 0,
) -> None:
    """Logs of each step the samples that it took, and last what was read in this process."""
    from trainer import elastic
    from trainer.data import Stream

    torch.manual_seed(0)
    model = nn.Linear(1, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    state = elastic.State(model=model, optimizer=optimizer)
    read = Log()
    data = Stream(source(LENGTH, None if workers else read), shuffle=shuffle)
    batches = elastic.batches(data, BATCH, unit=unit)
    for step in elastic.steps(state, batches, total=STEPS, data=data, workers=workers):
        taken: list[tuple[int, int]] = []
        with step:
            if step.number == ends:
                while not committed_steps(current_session().checkpoint_dirs[0]):
                    time.sleep(0.01)
                raise ValueError(f"in step {ends}")
            if step.number in kills:
                for pid in elastic.running()._supply.pids:  # type: ignore[union-attr]
                    os.kill(pid, signal.SIGKILL)
            for _ in step.split(None):
                passes, numbers = step.batch
                taken += zip(passes.tolist(), numbers.tolist(), strict=True)
                x = numbers[:, None].double() / LENGTH
                loss = (model(x) - x.sin()).square().sum() / step.batch_size
                step.add(loss=loss)
                loss.backward()
            optimizer.step()
        if step.applied:
            log.append((step.number, taken))
            log.append(("read", len(read)))


def samples(outcomes: Collection[Outcome]) -> dict[int, list[tuple[int, int]]]:
    """What all have taken, by step."""
    found: dict[int, list[tuple[int, int]]] = {}
    for outcome in outcomes:
        assert outcome.error == ""
        for number, taken in outcome.log:
            if number != "read":
                found.setdefault(number, []).extend(taken)
    return {number: sorted(taken) for number, taken in found.items()}


def meant(number: int) -> list[tuple[int, int]]:
    return [divmod(place, LENGTH) for place in range((number - 1) * BATCH, number * BATCH)]


@pytest.mark.parametrize("workers, source", [(0, Counting), (2, Seeking)])
def test_alone_each_sample_of_a_pass_comes_once(workers: int, source: Any) -> None:
    log: list[Any] = alone(logged, workers, source)
    assert samples([Outcome(log, "")]) == {n: meant(n) for n in range(1, STEPS + 1)}


def logged(workers: int, source: Any) -> list[Any]:
    log: list[Any] = []
    loop(workers, log, source)
    return log


@pytest.mark.parametrize("unit", [0, UNIT])
def test_in_worlds_that_change_with_loaders_killed(unit: int) -> None:
    run = functools.partial(loop, 2, kills=(2, 6, 10), unit=unit)
    found = samples(travelled(CHANGING, run).values())
    # What the dead has taken of the steps before, only they know.
    assert {n: found[n] for n in range(4, STEPS + 1)} == {n: meant(n) for n in range(4, STEPS + 1)}


def test_shuffled_by_blocks_each_comes_once_too() -> None:
    run = functools.partial(loop, 0, shuffle=LENGTH // 2)
    found = samples(trained(2, run))
    every = Counter(one for taken in found.values() for one in taken)
    passes = STEPS * BATCH // LENGTH
    assert all(every[p, n] == 1 for p in range(passes) for n in range(LENGTH))
    assert found[1] != meant(1)


@pytest.mark.parametrize("source, most", [(Seeking, 5 * BATCH), (Counting, 100 + STEPS * BATCH)])
def test_a_newcomer_reads_on_where_the_state_says(source: Any, most: int) -> None:
    outcomes = travelled(CHANGING, functools.partial(loop, 0, source=source))
    reads = [count for name, count in outcomes[3].log if name == "read"]
    assert 4 * BATCH - BATCH < reads[-1] <= most
    assert reads[-1] <= 5 * BATCH if source is Seeking else reads[-1] > 5 * BATCH


def begun(folder: Path, source: Any, ends: int) -> tuple[list[Any], str]:
    """A run in a folder, whose program raises in a step; what it has logged, and its error."""
    os.environ.update(
        Session(run_dir_url=str(folder), checkpoint=CheckpointSettings(every_steps=2)).to_env()
    )
    log: list[Any] = []
    try:
        loop(0, log, source, ends=ends)
    except ValueError as error:
        return log, str(error)
    return log, ""


@pytest.mark.parametrize("source", [Seeking, Counting])
def test_a_run_that_begins_again_goes_on_in_the_middle_of_a_pass(
    tmp_path: Path, source: Any
) -> None:
    log, error = alone(begun, tmp_path, source, 8)
    assert error == "in step 8" and samples([Outcome(log, "")])[7] == meant(7)
    log, error = alone(begun, tmp_path, source, 0)
    first = log[0][0]
    assert error == "" and first in (3, 5, 7)
    found = samples([Outcome(log, "")])
    assert found == {number: meant(number) for number in range(first, STEPS + 1)}
    before = log[1][1]  # what was read until the first of them was taken
    inside = (first - 1) * BATCH % LENGTH
    assert before <= (2 * BATCH if source is Seeking else inside + 2 * BATCH)


class Unlike:
    """Other samples in each process."""

    def __init__(self, length: int, log: Any) -> None:
        self.length = length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(os.getpid(), number) for number in range(self.length)])


def test_ranks_that_read_unlike_samples_are_found_before_the_model_changes() -> None:
    for outcome in trained(2, functools.partial(loop, 0, source=Unlike)):
        assert outcome.log == []
        assert outcome.error == (
            "Mistake: sample 0 of the data set: ranks 0 and 1 have read unlike samples; each "
            "worker and loader reads the source by itself, and again after a loss, so it must give "
            "the same samples in the same order: fix what is random by a seed of its own, sort "
            "lists of files, and leave shuffling to Stream(…, shuffle=1000)"
        )


class OneUnlike(Unlike):
    """One sample is another in each process, which comes late in the first batch."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(os.getpid() * (n == BATCH - 2), n) for n in range(self.length)])


def test_ranks_that_have_read_one_unlike_sample_do_not_end_well() -> None:
    for outcome in trained(2, functools.partial(loop, 0, source=OneUnlike)):
        assert outcome.error.startswith(
            "Mistake: the samples before 12 of the data set: ranks 0 and 1 have read unlike samples"
        )


def test_loaders_that_read_unlike_samples_are_found() -> None:
    (outcome,) = trained(1, functools.partial(loop, 2, source=Unlike))
    assert "two loaders, or workers, have read unlike samples" in outcome.error


def fitted(steps: int | None, log: list[Any], held_out: Any = None) -> None:
    from trainer import Task, fit

    class Endless(Task):
        global_batch = BATCH

        def dataset(self) -> Any:
            return Counting(LENGTH)

        def validation(self) -> Any:
            return held_out

        def model(self) -> nn.Module:
            return nn.Linear(1, 1).double()

        def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), lr=0.05)

        def loss(self, model: nn.Module, batch: Any, step: Any) -> Tensor:
            log.append((step.number, list(zip(*(one.tolist() for one in batch), strict=True))))
            loss: Tensor = model(batch[1][:, None].double() / LENGTH).square().mean()
            return loss

    task = Endless()
    task.steps = steps
    fit(task)


def test_a_task_may_return_what_is_iterable_and_says_how_many_steps() -> None:
    outcomes = trained(2, functools.partial(fitted, 3))
    assert samples(outcomes) == {number: meant(number) for number in (1, 2, 3)}


def test_without_a_number_of_steps_it_is_refused() -> None:
    (outcome,) = trained(1, functools.partial(fitted, None))
    assert outcome.error == (
        "Unusable: the data set has no length, so there are no epochs to count: write how many "
        "steps are to be taken (steps = 10_000 in a task, elastic.steps(…, total=10_000))"
    )


def test_an_evaluation_without_an_end_is_refused_before_training() -> None:
    (outcome,) = trained(1, functools.partial(fitted, 3, held_out=Counting(LENGTH)))
    assert outcome.log == []
    assert outcome.error.startswith("Unusable: validation() has no length, and an evaluation is of")


class Unsized:
    """Has places, and does not say how many."""

    def __getitem__(self, index: int) -> int:
        return index


def test_what_has_places_and_no_length_is_no_stream() -> None:
    from trainer.engine.data import Order

    with pytest.raises(TypeError, match="has no len"):
        Order.of(Unsized(), BATCH, 0)
