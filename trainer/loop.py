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

import inspect
from collections.abc import Callable
from typing import Any

import torch

from trainer.engine.data import Order
from trainer.engine.device import to_device
from trainer.engine.mistake import NOT_ALIKE, Mistake
from trainer.engine.nonfinite import policy_of
from trainer.engine.plan import Plan
from trainer.engine.state import State
from trainer.engine.step import Step
from trainer.engine.steps import Steps
from trainer.protocol.channel import Channel, current_channel
from trainer.protocol.session import Session, current_session
from trainer.task import Task


class TaskState(State):
    """A task's model, optimizer and schedule, and what its ``state()`` declares.

    The optimizer is made when the model is on its device, which is when the worker first
    joins a world.
    """

    def __init__(self, task: Task, total_steps: int) -> None:
        torch.manual_seed(task.seed)
        super().__init__(model=task.model())
        self._task = task
        self._total_steps = total_steps
        self._prepared = False
        self._declared = task.state()
        for name, part in self._declared.items():
            self._add(name, part)
            setattr(task, name, part)

    def prepare(self) -> torch.device:
        device = super().prepare()
        if not self._prepared:
            self._prepared = True
            optimizer = self._task.optimizer(self.model)
            self._add("optimizer", optimizer)
            self._add("scheduler", self._task.scheduler(optimizer, self._total_steps))
            self._task._watch = self._watch
        return device

    def load(self, tree: dict[str, Any]) -> None:
        super().load(tree)
        self.values_changed()

    def values_changed(self) -> None:
        for name in self._declared:
            vars(self._task)[name] = getattr(self, name)

    def let_go(self) -> None:
        """The task is not trained any more: its attributes are its own again."""
        self._task._watch = None

    def _watch(self, name: str, value: Any) -> None:
        """An attribute of the task is being set. Raises Mistake where a newcomer would miss it."""
        if name in self._declared:
            setattr(self, name, value)
        elif name != "_watch" and _differs(getattr(self._task, name, value), value):
            raise Mistake(
                "SW5123",
                f"{type(self._task).__name__}.{name} changes while the task trains, and would be "
                "lost with its worker: take it from the step (step.number, step.progress), or "
                f"declare it: def state(self): return {{{name!r}: …}}",
            )


class Loop:
    """Trains a task's model, step by step."""

    def __init__(self, task: Task, channel: Channel, session: Session) -> None:
        self._task = task
        self._data: Any = task.dataset()
        order = Order(len(self._data), task.global_batch, task.seed)
        total = task.epochs * order.steps_per_epoch
        self._state = TaskState(task, total)
        self._steps = Steps(
            self._state,
            order,
            total,
            channel,
            session,
            metrics=("loss",),
            seed=task.seed,
            on_nonfinite=policy_of(session.on_nonfinite, task.on_nonfinite),
        )

    def run(self) -> dict[str, float]:
        """Trains to the end and returns the final metrics."""
        try:
            for step in self._steps:
                with step:
                    self._take(step)
                if step.epoch_done:
                    with self._steps.together():
                        self._evaluate()
            if self._steps.complete:
                if not self._steps.results:
                    self._evaluate()
                self._steps.done()
        except Exception:
            self._steps.abandon()
            raise
        finally:
            self._state.let_go()
        return self._steps.results

    def _take(self, step: Step) -> None:
        task, model = self._task, self._state.model
        model.train()
        counts = set()
        for part in step.split(task.micro_batch):
            batch = to_device(_told(task.batch, self._data, part, step=step.plan), step.device)
            loss = _told(task.loss, model, batch, step=step.plan)
            counts.add(isinstance(loss, tuple))
            if isinstance(loss, tuple):
                loss, count = loss
                step.mean_over(count)
            else:
                # Each part's mean loss, by its part of the global batch: they sum to the mean.
                loss = loss * (len(part) / step.batch_size)
            step.add(loss=loss)
            loss.backward()
        if len(counts) > 1:
            raise Mistake(
                NOT_ALIKE,
                f"step {step.number}: loss() has returned a mean for some batches, and (sum, "
                "count) for others; let it return the same always",
            )
        self._state.optimizer.step()
        if self._state.scheduler is not None:
            self._state.scheduler.step()

    def _evaluate(self) -> None:
        self._state.model.eval()
        with torch.no_grad():
            metrics = _told(self._task.evaluate, self._state.model, step=self._steps.newest())
        self._steps.report({name: float(value) for name, value in metrics.items()})


def _told(function: Callable[..., Any], *args: Any, step: Plan) -> Any:
    """Calls a task's method, with the step if it takes one more argument."""
    try:
        inspect.signature(function).bind(*args, step)
    except TypeError:
        return function(*args)
    return function(*args, step)


def _differs(one: Any, other: Any) -> bool:
    if one is other:
        return False
    try:
        return type(one) is not type(other) or not bool(one == other)
    except (RuntimeError, TypeError, ValueError):  # tensors and arrays of several elements
        return True


def fit(task: Task, channel: Channel | None = None) -> dict[str, float]:
    """Trains ``task`` to its end and returns its final metrics.

    Args:
        task: what to train.
        channel: where worlds come from; found by itself when None.

    Raises what the task's own code raises.
    """
    session = current_session()
    return Loop(task, current_channel() if channel is None else channel, session).run()
