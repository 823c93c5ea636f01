"""The training loop: any Task, on whatever workers there are right now.

    from trainer import Task, fit

    class MyTask(Task): ...

    fit(MyTask())

Under an agent, ``fit`` is one worker of the run and lives through all its
generations. Started alone (``python my_task.py``) it is a world of one.

One step, on every rank::

    slice of the global batch ─► this rank's share ─► forward, backward (micro-batches)
        ─► buckets are summed over the ranks while backward runs
        ─► optimizer.step() ─► step += 1
"""

from __future__ import annotations

import time
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor

from trainer.audit import Audit
from trainer.buckets import GradientBuckets
from trainer.channel import AgentChannel, Channel, LoneChannel
from trainer.checkpoint import Checkpointer
from trainer.data import Order, share
from trainer.elastic import Elastic
from trainer.session import Session, current_session
from trainer.steplog import StepLog
from trainer.task import Task

REPORT_EVERY = 0.2  # seconds between progress reports of a worker


class Model:
    """A task's model, optimizer and position: the state that survives.

    Built on the CPU while the worker is a standby; moved to its device when it first
    joins a world, so that a spare beside an active worker stays off the GPU.
    """

    def __init__(
        self, task: Task, order: Order, checkpointer: Checkpointer | None, slot: int
    ) -> None:
        self._task = task
        self._slot = slot
        self._order = order
        self._checkpointer = checkpointer
        torch.manual_seed(task.seed)
        self.module = task.model()
        self.step = 0
        self.clean = False
        self._prepared = False

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self._task.epochs * self._order.steps_per_epoch

    def prepare(self) -> torch.device:
        if not self._prepared:
            self.device = _device(self._slot)
            self.module.to(self.device)
            self.optimizer = self._task.optimizer(self.module)
            self.scheduler = self._task.scheduler(self.optimizer, self.total_steps)
            self.buckets = GradientBuckets(self.module.parameters(), extras=3)
            self._prepared = True
        return self.device

    def export(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": dict(self.module.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
        }

    def load(self, tree: dict[str, Any]) -> None:
        self.module.load_state_dict(tree["model"])
        self.optimizer.load_state_dict(tree["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(tree["scheduler"])
        self.step = tree["step"]
        self.clean = True

    def restore(self) -> None:
        found = None if self._checkpointer is None else self._checkpointer.load_newest()
        if found is not None:
            tree, _ = found
            self.load(tree)

    def apply(self) -> None:
        """One optimizer step. In the middle of it the state is nobody's to copy."""
        self.clean = False
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.step += 1
        self.clean = True


class Loop:
    """Trains a task's model in one world after another."""

    def __init__(self, task: Task, channel: Channel, session: Session) -> None:
        self._task = task
        self._channel = channel
        self._session = session
        self._data = task.dataset()
        self._order = Order(len(self._data), task.global_batch, task.seed)
        self._checkpointer = None
        if session.run_dir is not None:
            self._checkpointer = Checkpointer(
                session.run_dir, session.checkpoint_keep, self._report_event
            )
        self._model = Model(task, self._order, self._checkpointer, session.slot)
        self._audit = Audit.open(session)
        self._elastic = Elastic(channel)
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)
        self._log = StepLog()
        self._reported_at = 0.0
        self._saved_at = time.monotonic()
        self._metrics: dict[str, float] = {}

    def run(self) -> dict[str, float]:
        """Trains to the end and returns the final metrics."""
        if not (self._session.spare and torch.cuda.is_available()):
            self._model.prepare()
        _import_lazy_parts()
        self._channel.send("ready")
        try:
            self._elastic.run(self._model, self._train, self._save)
        except Exception:
            self._report_step()  # the step it happened at, exactly
            raise
        return self._metrics

    def _train(self) -> bool:
        """Trains in the current world; True when training is complete."""
        model = self._model
        self._log.forget_after(model.step)
        while model.step < model.total_steps:
            self._elastic.check_aborted()
            pause = self._step()
            if model.step % self._order.steps_per_epoch == 0:
                self._evaluate()
            if hvd.rank() == 0 and self._checkpoint_due():
                self._checkpoint(wait=False)
            if pause:
                self._report_progress()
                return False
        self._report_progress()
        if hvd.rank() == 0:
            self._checkpoint(wait=True)
        if not self._metrics:
            self._evaluate()
        self._channel.send(
            "done",
            generation=self._elastic.generation,
            rank=hvd.rank(),
            step=model.step,
            metrics=self._metrics,
        )
        return True

    def _step(self) -> bool:
        """One step. Returns whether the world was asked to pause after it."""
        model = self._model
        epoch = self._order.epoch_of(model.step)
        if epoch != self._epoch:
            self._permutation = self._order.permutation(epoch)
            self._epoch = epoch
        start, stop = self._order.bounds(model.step)
        low, high = share(start, stop, hvd.rank(), hvd.size())
        indices = self._permutation[low:high]
        if self._audit is not None:
            self._audit.contribute(
                generation=self._elastic.generation,
                step=model.step + 1,
                epoch=epoch,
                rank=hvd.rank(),
                ids=indices.tolist(),
                dataset_size=self._order.samples,
            )
        self._gradients(indices, stop - start)
        with self._channel.collective():
            pause, count, mean = model.buckets.reduce()
        if round(count) != stop - start:
            raise RuntimeError(
                f"step {model.step + 1} got gradients of {count:g} samples instead of "
                f"{stop - start}; this is a bug in Swell"
            )
        model.apply()
        self._elastic.step_completed()
        self._log.add(self._elastic.generation, model.step, {"loss": mean})
        if time.monotonic() - self._reported_at >= REPORT_EVERY:
            self._report_progress()
        return pause > 0.5

    def _gradients(self, indices: Tensor, total: int) -> None:
        """Adds this rank's gradients of the step's mean loss into the buckets.

        Args:
            indices: this rank's samples.
            total: samples of the step over all ranks.
        """
        model = self._model
        model.module.train()
        model.buckets.zero()
        # Random layers repeat themselves in the same world, whoever was lost before.
        torch.manual_seed(hash((self._task.seed, model.step, hvd.rank())))
        size = self._task.micro_batch or max(1, len(indices))
        parts = list(indices.split(size)) if len(indices) else []
        loss = 0.0

        def extras() -> list[float]:
            return [float(self._channel.pause_requested()), float(len(indices)), loss]

        if not parts:
            model.buckets.arm(extras)
        for number, part in enumerate(parts):
            batch = _to_device(self._task.batch(self._data, part), model.device)
            mean = self._task.loss(model.module, batch)
            weighted = mean * (len(part) / total)
            loss += float(weighted.detach())
            if number == len(parts) - 1:
                model.buckets.arm(extras)
            weighted.backward()

    def _evaluate(self) -> None:
        self._model.module.eval()
        with torch.no_grad():
            metrics = {k: float(v) for k, v in self._task.evaluate(self._model.module).items()}
        self._metrics = metrics
        if metrics and hvd.rank() == 0:
            self._report_event("evaluated", step=self._model.step, metrics=metrics)

    # --- checkpoints and reports ----------------------------------------------------

    def _checkpoint_due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._session.checkpoint_every

    def _checkpoint(self, *, wait: bool) -> None:
        if self._checkpointer is not None:
            self._checkpointer.save(self._model.export(), self._model.step, wait=wait)
            self._saved_at = time.monotonic()

    def _save(self) -> None:
        self._checkpoint(wait=True)

    def _report_event(self, event: str, **fields: Any) -> None:
        self._channel.send("event", event=event, **fields)

    def _report_progress(self) -> None:
        """Tells how far we are; rank 0 adds the metrics of the steps not told yet."""
        for batch in self._log.take() if hvd.rank() == 0 else []:
            self._channel.send(
                "steps",
                generation=batch.generation,
                first=batch.first,
                metrics=batch.metrics,
                total_steps=self._model.total_steps,
            )
        self._report_step()
        self._reported_at = time.monotonic()

    def _report_step(self) -> None:
        generation = self._elastic.generation
        self._channel.send("progress", generation=generation, step=self._model.step)


def fit(task: Task, channel: Channel | None = None) -> dict[str, float]:
    """Trains ``task`` to its end and returns its final metrics.

    Args:
        task: what to train.
        channel: where worlds come from; found by itself when None.

    Raises what the task's own code raises.
    """
    session = current_session()
    if channel is None:
        channel = AgentChannel.inherited() or LoneChannel()
    return Loop(task, channel, session).run()


def _import_lazy_parts() -> None:
    """Torch imports seconds' worth of modules at a process's first optimizer step."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    parameter.sum().backward()
    optimizer.step()


def _device(slot: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", slot)
    torch.cuda.set_device(device)
    return device


def _to_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: _to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        values = [_to_device(value, device) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch
