"""Your own training loop, on workers that come and go.

    from trainer import elastic

    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    state = elastic.State(model=model, optimizer=optimizer)
    batches = elastic.batches(dataset, global_batch=64, seed=0)

    for step in elastic.steps(state, batches, epochs=3):
        with step:
            for part in step.split(None):
                x, y = (one.to(step.device) for one in dataset[part])
                loss = F.cross_entropy(model(x), y, reduction="sum") / step.batch_size
                step.add(loss=loss)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if step.epoch_done:
            elastic.report(accuracy=evaluate(model))

    torch.save(model.state_dict(), "final.pt")  # rank 0 alone comes here

Started alone (``python own_loop.py``) it is a world of one. In a job file it is
``script: own_loop.py``, and the loop lives through drains, losses and newcomers:

- Step k takes the same samples in every world, and its workers share them, so divide a
  *summed* loss by ``step.batch_size``: the gradients then sum up to those of the mean.
- Gradients are summed over the workers when the last part's ``backward()`` returns: clip them,
  unscale them, step with them. For micro-batches, give ``split`` a number. A worker without a
  sample in a step gets no part; for it they are summed when the loop is over.
- A worker that is lost costs no step: the ``with`` block ends early, without an error,
  and the loop gives the same step again. So what must happen once per step goes inside
  the block, after ``optimizer.step()``, or under ``if step.applied``.
- Whatever must survive goes in the State: parts with a ``state_dict`` (models,
  optimizers, schedulers, scalers) and plain values (``State(…, best=0.9)``).
- All workers must be built alike: seed what is random before the State is made.
- ``steps(…, data=dataset, workers=4)`` has batches made ahead, by processes: take ``step.batch``
  in the loop over ``split()``.
- With random numbers in training (dropout, augmentation) or batch normalisation, the numbers are
  the same in every world if the batch is computed by units: ``batches(…, unit=8)``. Then
  ``split()`` gives one unit after another, each with random numbers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager
from typing import Any

from torch.utils.data import default_collate

from trainer.data.mixture import Mixture
from trainer.data.stream import Stream, by_place, mark_every, require_own, require_steps
from trainer.engine.data import Order
from trainer.engine.nonfinite import Policy, policy_of
from trainer.engine.plan import Plan
from trainer.engine.state import State
from trainer.engine.step import Step
from trainer.engine.steps import Steps
from trainer.engine.supply import Supply
from trainer.protocol.channel import current_channel
from trainer.protocol.session import current_session
from trainer.training.fetch import Collated
from trainer.training.numbers import plain

__all__ = [
    "Plan",
    "State",
    "Step",
    "batches",
    "checkpoint",
    "report",
    "steps",
    "stop",
    "together",
]

_running: Steps | None = None
_keep: Callable[[Any], None] | None = None  # set in a worker that runs a script


def batches(
    dataset: Sized | Stream | Mixture | Iterable[Any] | int,
    global_batch: int,
    seed: int = 0,
    unit: int = 0,
) -> Order:
    """The exact order in which a data set is used.

    Args:
        dataset: the data set, or its number of samples; one without a length comes in the order in
            which it is read (see trainer.data.Stream), and ``trainer.data.Shards`` itself has an
            order in which each worker reads few of them; its number of samples would not have that.
        global_batch: samples of one step over all workers, whatever their number.
        seed: fixes the order of each epoch.
        unit: samples that are computed together in every world, with random numbers and batch
            statistics of their own; then a loop must take its samples from ``step.split()``.
            0: a worker's share is whatever part of the batch it gets.

    Raises ValueError when there is no sample, or a batch of none, or a unit of fewer than none.
    """
    return Order.of(dataset, global_batch, seed, unit)


def steps(
    state: State,
    batches: Order | None = None,
    *,
    epochs: int | None = None,
    total: int | None = None,
    metrics: tuple[str, ...] = ("loss",),
    seed: int | None = 0,
    on_nonfinite: str | None = None,
    data: Any = None,
    workers: int = 0,
    prefetch: int = 2,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[Step]:
    """Gives one step after another, to be taken inside ``with step:``.

    The loop ends on rank 0 when all steps are done: what follows it runs there alone,
    and the run is complete when the script ends. On other workers the process exits
    here, when the run has ended or the worker is not needed any more.

    Args:
        state: what survives.
        batches: which samples each step takes; None for a loop that needs no data set.
        epochs: passes over the data. Either this or ``total`` must be given.
        total: steps of the whole run.
        metrics: names of the numbers that ``step.add`` sums over the workers.
        seed: seeds Python's, NumPy's and torch's generators anew for each step and unit, or
            rank without units, so that a step that is taken again repeats itself; None leaves
            them alone.
        on_nonfinite: what becomes of a step whose loss (the metric of that name) or gradients are
            not finite: ``stop`` ends the run, ``skip`` leaves the step out, ``rollback`` goes
            back to the newest good checkpoint, and leaves it out then. What the job file says
            counts more; ``stop`` where neither says anything.
        data: the data set that ``step.batch`` takes samples from: anything with integer indexing.
            Shards of ``trainer.data`` are fetched ahead of the steps.
        workers: processes of each rank that make batches ahead of the steps; with 0 a batch is
            made when it is asked for.
        prefetch: parts of batches that are made ahead for each of these processes.
        collate: makes one batch of a list of samples; torch's ``default_collate`` if None.

    Raises ValueError unless exactly one of ``epochs`` (with ``batches``) and ``total``
    is given, and for an ``on_nonfinite`` that there is not, or such ``workers``; NoLoaders for data
    that cannot be given to loaders; RuntimeError for a second loop in a
    worker of a run.
    """
    policy = policy_of(current_session().on_nonfinite, on_nonfinite)
    if (epochs is None) == (total is None):
        raise ValueError("give steps() either epochs= or total=")
    if epochs is not None:
        if batches is None:
            raise ValueError("epochs= needs batches=; without a data set give total=")
        require_steps(batches, None)
        total = epochs * batches.steps_per_epoch
    assert total is not None
    supply = Supply()
    if data is not None:
        data = by_place(data)
        if batches is not None:
            require_own(batches, data)
            mark_every(data, batches.batch)
        supply = Supply(Collated(data, collate or default_collate), workers, prefetch, seed)
    return _steps(state, batches, total, metrics, seed, policy, supply)


def stop() -> None:
    """Ends the loop before its last step, on all workers after the same step.

    One worker that calls it is enough: no worker takes a step after those that this one has taken.
    (A ``break`` would leave the other workers waiting.) Raises RuntimeError outside a loop.
    """
    _loop().stop()


def together() -> AbstractContextManager[None]:
    """A place for collectives of your own between two steps, such as an evaluation's.

        if step.epoch_done:
            with elastic.together():
                right = hvd.allreduce(count_right(model), op=hvd.Sum)
                elastic.report(accuracy=float(right) / len(test))

    To be entered on all workers after the same step. When one is lost meanwhile, the block ends
    early, without an error, and the loop gives the same step again, to all workers of the next
    world: ``with step:`` passes its block over, as it was taken, and what follows runs again. So
    what must happen once per step belongs into the block of the step. Raises RuntimeError outside a
    loop.
    """
    return _loop().together()


def report(**metrics: float) -> None:
    """Reports results, such as an evaluation's; the newest become the run's final metrics.

    Only rank 0's count. What is reported of one state in several calls counts together. Raises
    RuntimeError before the first step, and Mistake for what is no number.
    """
    _loop().report(plain(metrics))


def checkpoint(state: Any) -> None:
    """Has the state of an Elastic Horovod script written to the run's checkpoints.

        state = hvd.elastic.TorchState(model=model, optimizer=optimizer, epoch=0)
        elastic.checkpoint(state)

    To be called on all workers, before the function of ``@hvd.elastic.run``. From then on
    ``state.commit()`` writes a checkpoint whenever the job's ``checkpoint:`` says that one is
    due, in the background; when no worker holds the state any more, the function begins with
    the newest one. Outside a run it does nothing. (A loop over ``steps`` needs no call.)

    Args:
        state: a TorchState, or another ObjectState. Its values must be plain ones: numbers,
            strings, tensors, dicts and lists of them.

    Raises ValueError for a second state, and TypeError for what is no ObjectState.
    """
    if _keep is not None:
        _keep(state)


def _steps(
    state: State,
    order: Order | None,
    total: int,
    metrics: tuple[str, ...],
    seed: int | None,
    policy: Policy,
    supply: Supply,
) -> Iterator[Step]:
    global _running
    channel = current_channel()
    if _running is not None and _running.under_agent:
        raise RuntimeError("a run has one loop over elastic.steps(); this is a second one")
    session = current_session()
    _running = Steps(state, order, total, channel, session, metrics, seed, policy, supply=supply)
    try:
        yield from _running
    except BaseException:
        _running.abandon()
        raise
    if not _running.complete:
        raise SystemExit(0)


def _loop() -> Steps:
    if _running is None:
        raise RuntimeError("call this inside or after a loop over elastic.steps()")
    return _running


def running() -> Steps | None:
    """The loop of this process, for the worker that runs the user's script."""
    return _running


def keep_states_with(keep: Callable[[Any], None]) -> None:
    """Sets what ``checkpoint`` hands a state to, for the worker that runs the user's script."""
    global _keep
    _keep = keep
