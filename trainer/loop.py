"""The training loop: any Task, on whatever workers there are right now.

    from trainer import Task, fit

    class MyTask(Task): ...

    fit(MyTask())

Under an agent, ``fit`` is one worker of the run and lives through all its
generations. Started alone (``python my_task.py``) it is a world of one.

It is an own loop as ``trainer.elastic`` describes it, with nothing that another could
not do, too. One step, on every rank::

    slice of the global batch ─► this rank's share ─► forward, backward (micro-batches)
        ─► buckets are summed over the ranks while backward runs
        ─► optimizer.step() ─► step += 1
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.engine.data import Order
from trainer.engine.device import to_device
from trainer.engine.state import State
from trainer.engine.step import Step
from trainer.engine.steps import Steps
from trainer.protocol.channel import Channel, current_channel
from trainer.protocol.session import Session, current_session
from trainer.task import Task


class TaskState(State):
    """A task's model, optimizer and schedule.

    The optimizer is made when the model is on its device, which is when the worker first
    joins a world.
    """

    def __init__(self, task: Task, total_steps: int) -> None:
        torch.manual_seed(task.seed)
        super().__init__(model=task.model())
        self._task: Task | None = task
        self._total_steps = total_steps

    def prepare(self) -> torch.device:
        device = super().prepare()
        task, self._task = self._task, None
        if task is not None:
            optimizer = task.optimizer(self.model)
            self._add("optimizer", optimizer)
            self._add("scheduler", task.scheduler(optimizer, self._total_steps))
        return device


class Loop:
    """Trains a task's model, step by step."""

    def __init__(self, task: Task, channel: Channel, session: Session) -> None:
        self._task = task
        self._data: Any = task.dataset()
        order = Order(len(self._data), task.global_batch, task.seed)
        total = task.epochs * order.steps_per_epoch
        self._state = TaskState(task, total)
        self._steps = Steps(
            self._state, order, total, channel, session, metrics=("loss",), seed=task.seed
        )

    def run(self) -> dict[str, float]:
        """Trains to the end and returns the final metrics."""
        try:
            for step in self._steps:
                with step:
                    self._take(step)
                if step.epoch_done:
                    self._evaluate()
            if self._steps.complete:
                if not self._steps.results:
                    self._evaluate()
                self._steps.done()
        except Exception:
            self._steps.abandon()
            raise
        return self._steps.results

    def _take(self, step: Step) -> None:
        model = self._state.model
        model.train()
        for part in step.split(self._task.micro_batch):
            batch = to_device(self._task.batch(self._data, part), step.device)
            # Each part's mean loss, by its part of the global batch: they sum to the mean.
            loss = self._task.loss(model, batch) * (len(part) / step.batch_size)
            step.add(loss=loss)
            loss.backward()
        self._state.optimizer.step()
        if self._state.scheduler is not None:
            self._state.scheduler.step()

    def _evaluate(self) -> None:
        self._state.model.eval()
        with torch.no_grad():
            metrics = self._task.evaluate(self._state.model)
        self._steps.report({name: float(value) for name, value in metrics.items()})


def fit(task: Task, channel: Channel | None = None) -> dict[str, float]:
    """Trains ``task`` to its end and returns its final metrics.

    Args:
        task: what to train.
        channel: where worlds come from; found by itself when None.

    Raises what the task's own code raises.
    """
    session = current_session()
    return Loop(task, current_channel() if channel is None else channel, session).run()
