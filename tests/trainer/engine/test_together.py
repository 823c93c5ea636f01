"""Collectives of the program's own between two steps: repeated when a worker is lost in them."""

from __future__ import annotations

import copy
import functools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.engine.loops import _follow, trained
from tests.trainer.ranks import alone, formed, workers
from trainer import Task
from trainer.checkpoints.manifest import folders, read_metrics
from trainer.protocol.messages import Done, Stopped
from trainer.protocol.session import CheckpointSettings, Session
from trainer.rundir.directory import RunDirectory

SAMPLES, BATCH = 12, 4
STEPS_PER_EPOCH, STEPS = 3, 6
X = torch.linspace(-1, 1, SAMPLES, dtype=torch.float64).unsqueeze(1)


def loop(log: list[Any], dies_after: int = 0) -> None:
    """Counts the workers after each epoch, in a collective of its own; one dies before it."""
    import horovod.torch as hvd

    from trainer import elastic

    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    average = copy.deepcopy(model).requires_grad_(False)
    state = elastic.State(model=model, optimizer=optimizer, average=average, seen=0)
    for step in elastic.steps(state, elastic.batches(SAMPLES, BATCH), epochs=2):
        with step:
            step.add(loss=1.0 / step.size)
            model(X[step.indices]).square().sum().backward()
            optimizer.step()
            state.seen += step.batch_size
        for mean in average.parameters():
            mean.data.mul_(0.5)
        log.append((step.number, step.applied, step.metrics.get("loss")))
        if step.epoch_done:
            if step.number == dies_after:
                os.kill(os.getpid(), signal.SIGKILL)
            with elastic.together():
                ones = hvd.allreduce(torch.ones(1), op=hvd.Sum, name="mine")
                log.append(f"{int(ones)} after {step.number}")
    both = [[float(p.detach().sum()) for p in one.parameters()] for one in (model, average)]
    log.append((state.seen, *both))


def logged() -> list[Any]:
    log: list[Any] = []
    loop(log)
    return log


def test_what_follows_a_step_runs_again_on_all_workers_when_one_was_lost_in_it() -> None:
    dies = functools.partial(loop, dies_after=STEPS_PER_EPOCH)
    with workers(_follow, [loop], [dies], [loop]) as (one, lost, newcomer):
        with formed(1, [one, lost]):
            stopped = one.until(Stopped)
            assert (stopped.step, stopped.clean) == (STEPS_PER_EPOCH, True)
        with formed(2, [one, newcomer]) as started:
            assert [each.step for each in started] == [STEPS_PER_EPOCH] * 2
            one.until(Done)
        outcomes = [each.exit() for each in (one, newcomer)]
    assert not outcomes[0].error + outcomes[1].error
    again = [(3, True, 1.0), "2 after 3", *[(n, True, 1.0) for n in (4, 5, 6)], "2 after 6"]
    assert outcomes[0].log[:-1] == [(n, True, 1.0) for n in (1, 2, 3)] + again
    assert outcomes[1].log == again, "the newcomer has not taken the step, and knows its sums"
    undisturbed = alone(logged)[-1]
    assert outcomes[0].log[-1][0] == undisturbed[0] == 2 * SAMPLES, "each step counts once"
    assert outcomes[0].log[-1][2] == undisturbed[2], "and what is moved after it, is once"


def test_a_worker_lost_in_a_step_after_it_repeats_the_step_alone() -> None:
    with workers(_follow, [loop], [loop]) as two:
        with formed(1, two):
            two[0].until(Done)
        logs = [one.exit().log for one in two]
    assert logs[0][:-1] == logs[1]
    assert [entry for entry in logs[1] if isinstance(entry, str)] == ["2 after 3", "2 after 6"]


class Counting(Task):
    """A task whose evaluation is a collective; one worker dies in it."""

    epochs = 2
    global_batch = BATCH

    def __init__(self, log: list[Any], dies: bool) -> None:
        self.log, self.dies = log, dies

    def dataset(self) -> Any:
        return X

    def model(self) -> nn.Module:
        return nn.Linear(1, 1).double()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = model(batch).square().mean()
        return loss

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        import horovod.torch as hvd

        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        self.log.append("evaluates")
        ones = hvd.allreduce(torch.ones(1), op=hvd.Sum, name="mine")
        return {"workers": float(ones)}


class Grouped(Counting):
    """The same by a process group of torch's, which lasts as long as a world; in the second one."""

    def __init__(self, log: list[Any], dies: bool, folder: str) -> None:
        super().__init__(log, dies)
        self.folder = folder

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        import horovod.torch as hvd
        from torch import distributed

        if self.dies and distributed.is_initialized():
            os.kill(os.getpid(), signal.SIGKILL)
        self.log.append("evaluates")
        if not distributed.is_initialized():
            place, size = f"file://{self.folder}/{hvd.size()}", hvd.size()
            distributed.init_process_group("gloo", place, rank=hvd.rank(), world_size=size)
        ones = torch.ones(1)
        distributed.all_reduce(ones)
        return {"workers": float(ones)}


def fits(log: list[Any], dies: bool = False, folder: str = "") -> None:
    from trainer import fit
    from trainer.protocol.channel import current_channel

    task = Grouped(log, dies, folder) if folder else Counting(log, dies)
    log.append(fit(task, current_channel()))


@pytest.mark.parametrize("by", ["horovod", "torch"])
@pytest.mark.parametrize("victim", [0, 1])
def test_an_evaluation_of_a_task_is_repeated_too(tmp_path: Path, victim: int, by: str) -> None:
    folder = str(tmp_path) if by == "torch" else ""
    plans = [[functools.partial(fits, dies=rank == victim, folder=folder)] for rank in range(2)]
    with workers(_follow, *plans) as two:
        survivor = two[1 - victim]
        with formed(1, two):
            survivor.until(Stopped)
        with formed(2, [survivor]):
            survivor.until(Done)
        outcome = survivor.exit()
    assert not outcome.error
    assert outcome.log == ["evaluates"] * 3 + [{"workers": 1.0}]


class Unlike(Counting):
    """A task whose ranks ask for different collectives."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        import horovod.torch as hvd

        return {"sum": float(hvd.allreduce(torch.ones(1 + hvd.rank()), name="mine").sum())}


def fits_unlike(log: list[Any]) -> None:
    from trainer import fit
    from trainer.protocol.channel import current_channel

    fit(Unlike(log, dies=False), current_channel())


def test_ranks_that_ask_for_different_collectives_end_the_run_at_once() -> None:
    for outcome in trained(2, fits_unlike):
        assert outcome.error.startswith(
            "Mistake: ranks do not ask for the same collective of the program's own: Mismatched "
            "ALLREDUCE tensor shapes"
        )


class Judged:
    """A loop of seven steps that is evaluated by all after two of them, the first being the best.

    Args:
        url: of its run directory.
        dies_at: the step after which a worker dies in the evaluation.
        every: steps between two checkpoints.
    """

    def __init__(self, url: str, dies_at: int = 0, every: int = 100) -> None:
        self.url, self.dies_at, self.every = url, dies_at, every

    def __call__(self, log: list[Any]) -> None:
        import horovod.torch as hvd

        from trainer import elastic

        settings = CheckpointSettings(every=0.0, every_steps=self.every, keep_best="score", keep=1)
        os.environ.update(Session(self.url, f"w-{os.getpid()}", checkpoint=settings).to_env())
        model = nn.Linear(1, 1, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        state = elastic.State(model=model, optimizer=optimizer)
        for step in elastic.steps(state, total=7):
            with step:
                (-model(torch.ones(1)).sum() / step.size).backward()
                optimizer.step()
                optimizer.zero_grad()
            if step.number in (3, 5):
                with elastic.together():
                    if step.number == self.dies_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    hvd.allreduce(torch.ones(1), op=hvd.Sum, name="mine")
                    elastic.report(score=1.0 / step.number)
            elastic.running()._saving._checkpointer.flush()  # type: ignore[union-attr]


@pytest.mark.parametrize("every", [3, 100])
@pytest.mark.parametrize("victim", [0, 1])
def test_what_an_evaluation_that_was_repeated_has_found_is_the_best(
    tmp_path: Path, victim: int, every: int
) -> None:
    url = str(tmp_path)
    loops = [Judged(url, 3 if rank == victim else 0, every) for rank in range(2)]
    with workers(_follow, *[[one] for one in loops]) as two:
        survivor = two[1 - victim]
        with formed(1, two):
            survivor.until(Stopped)
        with formed(2, [survivor]):
            survivor.until(Done)
        assert survivor.exit().error == ""
    run_dir = RunDirectory(url)
    found = {step: read_metrics(run_dir, step, names) for step, names in folders(run_dir).items()}
    assert found == {3: {"score": 1 / 3}, 7: {}}
