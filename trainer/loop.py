"""The training loop: any Task, on whatever workers there are right now.

    from trainer import Task, fit

    class MyTask(Task): ...

    fit(MyTask())

Under an agent, ``fit`` is one worker of the run and lives through all its
generations. Started alone (``python my_task.py``) it is a world of one.

It is an own loop as ``trainer.elastic`` describes it, with nothing that another could
not do, too. One step, on every rank::

    slice of the global batch ─► this rank's share ─► forward, backward (micro-batches)
        ─► buckets are summed over the ranks while backward runs ─► before_update ─► clipping
        ─► optimizer.step() ─► the schedule, the moving average ─► after_update ─► step += 1
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Container, Iterator, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.flop_counter import FlopCounterMode

from trainer.data.stream import by_place, mark_every, require_length, require_steps
from trainer.engine.data import Order
from trainer.engine.device import to_device
from trainer.engine.generators import seed_batch, seed_step
from trainer.engine.mistake import NOT_ALIKE, Mistake
from trainer.engine.nonfinite import policy_of
from trainer.engine.own_groups import losses
from trainer.engine.plan import Plan
from trainer.engine.state import State
from trainer.engine.step import Step
from trainer.engine.steps import Steps
from trainer.engine.supply import Supply
from trainer.engine.undo import Undo
from trainer.engine.units import default_unit
from trainer.protocol.channel import Channel, current_channel
from trainer.protocol.messages import Event
from trainer.protocol.session import Session, current_session
from trainer.task import Task
from trainer.training.apart import require_mean
from trainer.training.average import average, averaging
from trainer.training.compiled import compile_in_place
from trainer.training.evaluation import Part, due, evaluate
from trainer.training.fetch import Fetch, takes_step
from trainer.training.kept import Kept
from trainer.training.numbers import pairs, parted, plain
from trainer.training.precision import Precision
from trainer.training.rates import COUNT, TOKENS, flops_of
from trainer.training.recompute import recompute
from trainer.training.samplemean import require_samples

log = logging.getLogger("swell.data")

_TRAINING = attrgetter("training")


class TaskState(State):
    """A task's model, optimizers and schedules, and what its ``state()`` declares.

    The optimizers are made when the model is on its device, which is when the worker first
    joins a world.

    Args:
        total_steps: of the whole run.
        rehearse: has the model compiled, once everything is made; called before a world needs it.
        count: has its operations counted, before it is compiled.

    Attributes:
        updating: the optimizers, in the order of the task.
        following: their schedules; None where there is none.
        precision: in which the model computes.
    """

    averages = ("ema",)
    updating: Sequence[Optimizer] = ()
    following: Sequence[LRScheduler | None] = ()
    precision = Precision("fp32", torch.device("cpu"))

    def __init__(
        self,
        task: Task,
        total_steps: int,
        rehearse: Callable[[], None] = lambda: None,
        count: Callable[[], None] = lambda: None,
    ) -> None:
        torch.manual_seed(task.seed)
        super().__init__(model=task.model())
        if task.channels_last:
            self.model.to(memory_format=torch.channels_last)
        if task.ema is not None:
            self._add("ema", averaging(self.model, task.ema))
        recompute(self.model, task.recompute)
        self._task = task
        self._total_steps = total_steps
        self._rehearse = rehearse
        self._count = count
        self._prepared = False
        self._declared = task.state()
        for name, part in self._declared.items():
            self._add(name, part)
            setattr(task, name, part)

    @property
    def declared_names(self) -> tuple[str, ...]:
        """The names of what the task's ``state()`` declares."""
        return tuple(self._declared)

    def prepare(self) -> torch.device:
        device = super().prepare()
        if not self._prepared:
            self._prepared = True
            made = self._task.optimizer(self.model)
            several = not isinstance(made, Optimizer)
            self.updating = list(made) if not isinstance(made, Optimizer) else [made]
            self.following = [self._task.scheduler(o, self._total_steps) for o in self.updating]
            for number, optimizer in enumerate(self.updating):
                suffix = str(number) * several
                self._add(f"optimizer{suffix}", optimizer)
                self._add(f"scheduler{suffix}", self.following[number])
            self.precision = Precision(self._task.precision, device)
            if self.precision.scaler is not None:
                self._add("scaler", self.precision.scaler)
            self._count()
            self._task._watch = self._watch
            if self._task.compile:
                compile_in_place(self.model, self._task.compile)
                self._rehearse()
        return device

    @property
    def averaged(self) -> nn.Module:
        """The model that evaluations are about: the moving average, if there is one."""
        model: nn.Module = self.model if self._task.ema is None else self.ema
        return model

    def load_parts(self, tree: dict[str, Any], parts: Container[str]) -> None:
        if self._task.ema is not None and "ema" not in tree["parts"]:  # it begins with the model
            tree = {**tree, "parts": {**tree["parts"], "ema": tree["parts"]["model"]}}
        super().load_parts(tree, parts)

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
    """Trains a task's model, step by step.

    Args:
        most: after so many steps it stops, having evaluated; None for all of the task's.

    Attributes:
        order: which samples a step takes.
        validation: the data that is evaluated; None without any.
    """

    def __init__(
        self, task: Task, channel: Channel, session: Session, most: int | None = None
    ) -> None:
        self._task = task
        self._data: Any = by_place(task.dataset())
        mark_every(self._data, task.global_batch)
        self.validation: Any = task.validation()
        require_length(self.validation)
        if self.validation is not None and self.validation is self._data:
            log.warning(
                "validation() gives what is trained on: its figures are of what was learned"
            )
        own = type(task).evaluation_batch is not Task.evaluation_batch
        self._fetch = Fetch(task, self._data)
        self._fetch_evaluated = Fetch(task, self.validation, "evaluation_batch" if own else "batch")
        # Before the model is made: a loader needs none.
        self._supply = Supply(
            self._fetch,
            task.workers,
            task.prefetch,
            task.seed,
            most=task.micro_batch,
            channels_last=task.channels_last,
            evaluated=None if self.validation is None else self._fetch_evaluated,
        )
        self._channel = channel
        self._has_tokens = type(task).tokens is not Task.tokens
        self._flops = flops_of(task)  # operations of a sample, until that is told
        self._told: dict[str, bool] = {}  # which methods of the task take the step
        asked = getattr(task.should_stop, "__func__", None)
        self._may_stop = asked is not Task.should_stop  # else no rank needs to tell the others
        unit = default_unit(task.global_batch, task.micro_batch) if task.unit is None else task.unit
        self.order = order = Order.of(self._data, task.global_batch, task.seed, unit)
        require_steps(order, task.steps)
        whole = task.epochs * order.steps_per_epoch
        self._total = total = whole if task.steps is None else task.steps
        self._most = total if most is None else min(most, total)
        count = self._count if task.flops_per_sample == COUNT else lambda: None
        self._state = TaskState(task, total, self._rehearse, count)
        self._supply.changing = self._state.declared_names
        self._modules = list(self._state.model.modules())
        self._steps = Steps(
            self._state,
            order,
            total,
            channel,
            session,
            metrics=("loss",),
            seed=task.seed,
            on_nonfinite=policy_of(session.on_nonfinite, task.on_nonfinite),
            watch=task.unit is None and not task.compile,
            between=self._between,
            supply=self._supply,
        )

    @property
    def state(self) -> TaskState:
        """What is trained."""
        return self._state

    def newest(self) -> Plan:
        """What the newest step was about, or before the first what none is."""
        return self._steps.newest()

    def run(self) -> dict[str, float]:
        """Trains to the end and returns the final metrics."""
        try:
            for step in self._steps:
                with step:
                    self._take(step)
                if step.applied and step.rank == 0:
                    self._tell_rates(step.device)
                if step.epoch_done:
                    with self._steps.together():
                        self._call("on_epoch", self._state.model, step=step.plan)
            if self._steps.complete:
                if not self._steps.results:  # what was complete is done again: there is no world
                    alone = dataclasses.replace(self._steps.newest(), rank=0, size=1)
                    self._evaluate(alone, lambda value, name: [value])
                self._call("finish", self._state.averaged, step=self._steps.newest())
                self._steps.done()
        except BaseException:
            self._steps.abandon()
            raise
        finally:
            self._supply.close()
            self._state.let_go()
        return self._steps.results

    def _take(self, step: Step) -> None:
        task, model = self._task, self._state.model
        if not all(map(_TRAINING, self._modules)):
            model.train()
        # A compiled model would be compiled once more for each size of the parts.
        tried = task.unit is None and not task.compile
        if step.number == 1 and step.plan.parts is None and tried:
            self._try_parts(step)
        counts = set()
        for part in step.split(task.micro_batch):
            batch, found = self._loss(step.batch, step.plan)
            loss, numbers = parted(found)
            counts.add(isinstance(loss, tuple))
            if isinstance(loss, tuple):
                loss, count = loss
                step.mean_over(count)
            else:
                if self._steps.examines and step.plan.parts is None:
                    require_samples(loss, step.number)
                # Each part's mean loss, by its part of the global batch: they sum to the mean.
                loss = loss * (len(part) / step.batch_size)
            step.add(loss=loss)
            numbers = {**numbers, **self._measured(batch, step)}
            if self._has_tokens:
                numbers[TOKENS] = float(task.tokens(batch)), len(part)
            step.measure(**pairs(numbers, len(part)))
            self._state.precision.backward(loss)
        if len(counts) > 1:
            raise Mistake(
                NOT_ALIKE,
                f"step {step.number}: loss() has returned a mean for some batches, and (sum, "
                "count) for others; let it return the same always",
            )
        self._update(step)

    def _try_parts(self, step: Step) -> None:
        """Refuses a loss that depends on how the batch is split, before the first step changes
        anything; what it has changed by itself is put back.
        """
        enough = step.batch_size // step.size > 1  # on all ranks, as it may be a collective
        if not enough or hasattr(self._data, "seek"):
            return
        most = self._task.micro_batch or self.order.batch
        low = any(p.element_size() < 4 for p in self._state.model.parameters())

        def loss_of(part: Tensor) -> Any:
            return parted(self.loss_of(part, step.plan)[1])[0]

        kept = Kept(self._task, [self._data, *self._modules])
        try:
            require_mean(loss_of, step.indices[:most], coarse=low or self._task.precision != "fp32")
        finally:
            step.undo()
            kept.put_back()

    def _tell_rates(self, device: torch.device) -> None:
        """Says once what is needed to tell how well the device is used."""
        flops, self._flops = self._flops, None
        if flops is not None:
            cuda = device.type == "cuda"
            name = torch.cuda.get_device_name(device) if cuda else device.type
            self._channel.send(Event("rates", {"flops": flops, "device": name}))

    def _count(self) -> None:
        """Counts the operations that a sample takes, on one unit."""
        order = self.order
        with FlopCounterMode(display=False) as counter:
            self._rehearse()
        unit = min(order.unit or order.batch, order.batch, order.samples)
        self._flops = counter.get_total_flops() / unit

    def _rehearse(self) -> None:
        """Computes a unit as a step will, forward and backward, and leaves nothing of it."""
        state, order = self._state, self.order
        undo = Undo(state)
        undo.begin(examine=True, whole=True)
        start, stop = order.bounds(0)
        first = order.take(0, start, min(start + (order.unit or order.batch), stop))
        state.model.train()
        loss, _ = parted(self.loss_of(first, self.newest())[1])
        state.precision.backward(loss[0] if isinstance(loss, tuple) else loss)
        state.model.zero_grad()
        undo.undo()

    def loss_of(self, part: Tensor, plan: Plan) -> tuple[Any, Any]:
        """A batch of the samples ``part``, and what ``loss`` returns of it."""
        batch = to_device(self._fetch(part, plan), plan.device, self._task.channels_last)
        return self._loss(batch, plan)

    def _loss(self, batch: Any, plan: Plan) -> tuple[Any, Any]:
        with self._state.precision.autocast():
            return batch, self._call("loss", self._state.model, batch, step=plan)

    def _measured(self, batch: Any, step: Step) -> dict[str, Any]:
        """The task's numbers beside the loss; without them there is no pass for them."""
        task, model = self._task, self._state.model
        if type(task).metrics is Task.metrics:
            return {}
        training = [module for module in model.modules() if module.training]
        model.eval()
        with torch.no_grad(), self._state.precision.autocast():
            found: dict[str, Any] = self._call("metrics", model, batch, step=step.plan)
        for module in training:
            module.training = True
        return found

    def _update(self, step: Step) -> None:
        """The gradients are summed, on every rank: they change the model."""
        task, state = self._task, self._state
        logged = {
            f"lr_{number}" if number else "lr": float(optimizer.param_groups[0]["lr"])
            for number, optimizer in enumerate(state.updating)
        }
        state.precision.unscale(state.updating)
        self._call("before_update", state.model, step=step.plan)
        if task.clip_norm is not None:
            trained = [p for model in state.models for p in model.parameters()]
            norm = nn.utils.clip_grad_norm_(trained, task.clip_norm)
            logged["norm"] = float(norm)
        state.precision.step(state.updating)
        for scheduler in state.following:
            if scheduler is not None:
                scheduler.step()
        if task.ema is not None:
            average(state.ema, state.model, task.ema)
        self._call("after_update", state.model, step=step.plan)
        step.metrics.update(logged)

    def _call(self, name: str, *args: Any, step: Plan) -> Any:
        """Calls a method of the task, with the step if it takes one more argument."""
        method = getattr(self._task, name)
        if name not in self._told:
            self._told[name] = takes_step(method, *args)
        return method(*args, step) if self._told[name] else method(*args)

    def _between(self) -> None:
        """Between two steps, on all ranks: an evaluation, if one is due, and whether to go on."""
        task, state, known = self._task, self._state, self._state.learned
        if known.stops:
            self._steps.stop()
        every = task.eval_every or self.order.steps_per_epoch
        if not due(state.step, known.evaluated, every, self._most):
            return
        newest = self._steps.newest()
        with self._steps.repeatable(), losses():
            with self._steps.stopwatch.timing("evaluation"):
                metrics = self._evaluate(newest, self._steps.exchange)
            stops = False
            if self._may_stop:
                ends = newest.rank == 0 and task.should_stop(metrics)
                stops, *_ = self._steps.exchange(ends, "stop")
            state.learned = dataclasses.replace(known, evaluated=state.step, stops=stops)
        if stops or state.step >= self._most:
            self._steps.stop()

    def _evaluate(self, plan: Plan, exchange: Callable[[Any, str], list[Any]]) -> dict[str, float]:
        task, model, data = self._task, self._state.averaged, self.validation

        def compute(parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
            batches = self._supply.evaluated(parts, plan, self._steps.check_aborted)
            for (number, _), batch in zip(parts, batches, strict=True):
                yield self._figures_of(number, batch, plan)

        model.eval()
        with torch.no_grad(), self._state.precision.autocast():
            own = self._call("evaluate", model, step=plan)
        metrics = plain(own)
        if data is not None:
            most = task.eval_batch or task.micro_batch or task.global_batch
            metrics |= evaluate(len(data), most, plan, exchange, compute)
        self._steps.report(metrics)
        self._call("on_evaluate", metrics, step=plan)
        return metrics

    def figures_of(self, parts: Sequence[Part], plan: Plan) -> Iterator[dict[str, Any]]:
        """What ``evaluate_batch`` returns of parts of the data, whose batches are made here."""
        for number, indices in parts:
            seed_batch(self._task.seed, plan.number, -2 - number)
            batch = self._fetch_evaluated(indices, plan)
            batch = to_device(batch, plan.device, self._task.channels_last)
            yield self._figures_of(number, batch, plan)

    def _figures_of(self, number: int, batch: Any, plan: Plan) -> dict[str, Any]:
        task, model = self._task, self._state.averaged
        seed_step(task.seed, plan.number, -2 - number)
        model.eval()
        with torch.no_grad(), self._state.precision.autocast():
            found: dict[str, Any] = self._call("evaluate_batch", model, batch, step=plan)
        return found


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
