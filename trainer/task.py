"""What a user describes: the model, the data, the loss. How it survives is not their concern."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer.loaders.sample import samples_of
from trainer.training.precision import Name as PrecisionName
from trainer.training.schedule import Schedule


class Task:
    """Subclass this, and hand an instance to ``trainer.fit()``.

    ``dataset``, ``model``, ``optimizer`` and ``loss`` must be written. They are called
    in each worker, and must give the same result everywhere: seed what is random.

    ``batch``, ``loss`` and ``evaluate`` may take the step as one more argument (see
    ``trainer.elastic.Plan``): ``step.number``, ``step.epoch`` and ``step.progress`` are the same on
    all workers, and after any loss; a counter of the task's own would begin anew on a newcomer.
    So an attribute of the task cannot change while it trains, unless ``state`` declares it.

    Attributes:
        epochs: passes over the data.
        steps: of the whole run, instead of ``epochs``; it may end within one.
        global_batch: samples of one step over all workers, whatever their number.
        micro_batch: most samples of one forward pass. None for as many as are known to fit: a
            worker's whole share at first, and when shares grow, never more than went through once.
        workers: processes of each rank that make batches ahead of the steps; with 0 a batch is made
            when its step needs it.
        prefetch: parts of batches that are made ahead for each of these processes.
        seed: fixes the order of the data and the state of torch's random generators.
        on_nonfinite: ``stop``, ``skip`` or ``rollback``, when the loss or gradients are not finite
            (see ``trainer.elastic.steps``); what the job file says counts more.
        unit: samples that are computed together in every world, with random numbers and batch
            statistics of their own, instead of ``micro_batch``. None: as many as fit the batch
            (trainer.engine.units), from the first step on that shows that it matters; 0: never.
        precision: ``fp32`` (the parameters' own), ``bf16`` or ``fp16`` with a scaler: autocast
            around ``loss`` and evaluations; parameters and sums stay in the parameters' own.
        clip_norm: largest norm of all gradients together, once they are summed; None for any.
        schedule: of the learning rate, or the name of its shape: ``constant``, ``linear``,
            ``cosine`` or ``wsd`` (see trainer.training.schedule). None for a constant one.
        ema: what of a moving average of the model stays in each step, as 0.999; it is what is
            evaluated. None for no average.
        channels_last: whether images, and the model, have their channels last in memory.
        recompute: names of modules whose activations are computed again in backward, to save
            memory; ``*`` stands for anything, as in ``blocks.*``.
        compile: whether the model is compiled, before its worker joins a world; or the name of
            torch.compile's backend. The batch is computed by units then, so that no shape changes
            with the world.
        eval_every: steps between two evaluations; None for one after each epoch. The last step is
            evaluated always.
        flops_per_sample: floating-point operations that a sample takes, forward and backward, for
            the model-FLOPs utilisation that is shown; "count" has them counted on one unit before
            training begins, as torch.utils.flop_counter does. None: it is not shown.
        eval_batch: samples of a part of ``validation()``; None for ``micro_batch``, or
            ``global_batch``.
    """

    epochs: int = 1
    steps: int | None = None
    global_batch: int = 32
    micro_batch: int | None = None
    workers: int = 0
    prefetch: int = 2
    seed: int = 0
    on_nonfinite: str | None = None
    unit: int | None = None
    precision: PrecisionName = "fp32"
    clip_norm: float | None = None
    schedule: Schedule | str | None = None
    ema: float | None = None
    channels_last: bool = False
    recompute: Sequence[str] = ()
    compile: bool | str = False
    eval_every: int | None = None
    eval_batch: int | None = None
    flops_per_sample: float | Literal["count"] | None = None
    _watch: Callable[[str, Any], None] | None = None  # set while it trains

    def __setattr__(self, name: str, value: Any) -> None:
        if self._watch is not None:
            self._watch(name, value)
        super().__setattr__(name, value)

    def dataset(self) -> Sized:
        """The training data: anything with a length and integer indexing."""
        raise NotImplementedError(f"{type(self).__name__} must define dataset()")

    def model(self) -> nn.Module:
        """The model, freshly initialised, on the CPU."""
        raise NotImplementedError(f"{type(self).__name__} must define model()")

    def optimizer(self, model: nn.Module) -> Optimizer | Sequence[Optimizer]:
        """The optimizer of ``model``, which is on its device by now; or several, for its parts.

        ``trainer.decay_groups(model, weight_decay)`` makes groups of what decays and what does not.
        """
        raise NotImplementedError(f"{type(self).__name__} must define optimizer(model)")

    def scheduler(self, optimizer: Optimizer, total_steps: int) -> LRScheduler | None:
        """A learning rate schedule that is stepped once after each step, or None.

        By default that of ``schedule``. Called for each of several optimizers.
        """
        if self.schedule is None:
            return None
        return Schedule.of(self.schedule).scheduler(optimizer, total_steps, self.global_batch)

    def batch(self, dataset: Any, indices: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The samples ``indices`` (int64, shape [n]) as one batch on the CPU.

        With ``workers`` it is called in loader processes, on the task as it was when ``dataset()``
        had been called; where that changes, take it from the step.
        """
        return torch.utils.data.default_collate(samples_of(dataset, indices.tolist()))

    def loss(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor | float]:
        """``loss(model, batch)`` or ``loss(model, batch, step)``: what is minimised, a scalar.

        Returns the *mean* loss over the samples of ``batch``; or (sum, count), for a mean over
        something else than samples, such as tokens that are no padding: the sums and the counts of
        all micro-batches and workers are added up before one is divided by the other. A mean over
        the tokens of each micro-batch would depend on how the batch was split.

        It may also return a dict of ``loss`` and other numbers; these are measured, as those of
        ``metrics`` are, without a forward pass of their own.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(model, batch)")

    def metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """``metrics(model, batch)`` or ``metrics(model, batch, step)``: numbers beside the loss.

        Each is a mean over the samples of ``batch``, or (sum, count); it is averaged over all of
        the step's samples. Called after each ``loss``, without gradients, the model in evaluation
        mode. Logged with each step, beside ``loss``, the learning rate ``lr``, and ``norm``, that
        of the gradients before they are clipped.
        """
        return {}

    def tokens(self, batch: Any) -> int:
        """How many tokens ``batch`` has, for the tokens per second that are shown; 0 for none.

        What is padding need not count. Called for each batch, on every worker.
        """
        return 0

    def before_update(self, *args: Any, **kwargs: Any) -> None:
        """``before_update(model)`` or ``before_update(model, step)``: on every rank, in each step.

        The gradients are summed over the ranks, and not clipped yet.
        """

    def after_update(self, *args: Any, **kwargs: Any) -> None:
        """``after_update(model)`` or ``after_update(model, step)``: on every rank, in each step.

        The optimizers have stepped. What is changed here must be changed on all ranks alike.
        """

    def on_epoch(self, *args: Any, **kwargs: Any) -> None:
        """``on_epoch(model)`` or ``on_epoch(model, step)``: on every rank, after each epoch.

        For one rank alone ask ``step.rank == 0``.
        """

    def evaluate(self, model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Metrics of the model as it is, by name; called, whole, on every worker.

        For a data set that takes time there is ``validation``.
        """
        return {}

    def validation(self) -> Sized | None:
        """The data that is evaluated by all workers together: anything with a length; or None."""
        return None

    def evaluation_batch(self, *args: Any, **kwargs: Any) -> Any:
        """``evaluation_batch(dataset, indices)``: samples of ``validation()`` as one batch.

        As ``batch`` has them, unless this is written.
        """
        raise NotImplementedError(f"{type(self).__name__} takes batch() for evaluations, too")

    def evaluate_batch(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """``evaluate_batch(model, batch)``, or with the step: numbers of a part of the data.

        Each is (sum, count), or a mean over the samples of ``batch``. Sums and counts of all parts
        are added up exactly: the figures are the same in every world. When a worker is lost
        meanwhile, the evaluation is repeated without it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define evaluate_batch(model, batch)")

    def on_evaluate(self, metrics: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """``on_evaluate(metrics)`` or ``on_evaluate(metrics, step)``: on every rank, after each.

        For one rank alone ask ``step.rank == 0``.
        """

    def should_stop(self, metrics: dict[str, float]) -> bool:
        """Whether training ends early; asked after each evaluation, of rank 0, for all."""
        return False

    def finish(self, *args: Any, **kwargs: Any) -> None:
        """``finish(model)`` or ``finish(model, step)``: on one rank, when training is complete.

        The model is the one that evaluations are about. Nothing is trained after it, and the run
        ends when it returns; when this worker is lost before, another one is asked. So it may be
        called again, and must leave the model as it is.
        """

    def state(self) -> dict[str, Any]:
        """What else survives, by name, with its first value; the names become attributes.

        A value is a number, a string, a tensor, an array, an enum, a dataclass, or dicts and lists
        of them: ``self.temperature = 0.9`` changes it for good. A part with ``state_dict`` and
        ``load_state_dict`` travels by them.
        """
        return {}
