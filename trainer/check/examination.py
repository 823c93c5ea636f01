"""What can be told of a task in one process: of its data, its model and its loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.data.stream import by_place
from trainer.engine.data import Order
from trainer.engine.generators import seed_step
from trainer.loop import Loop
from trainer.protocol.channel import LoneChannel
from trainer.protocol.session import Session
from trainer.rundir.usererror import Message, UserError
from trainer.task import Task
from trainer.training.evaluation import Part, evaluate
from trainer.training.numbers import pairs, parted

LOOKED_AT = 3  # samples
DRAWS = 4  # of the loss of the same samples
LISTED = 5  # names in a message
TOLERANCE = 1e-3  # a sum is off by a factor, and not by rounding


def examine(make: Any) -> list[Message]:
    """Examines the tasks that ``make()`` gives.

    Raises what the task's own code raises.
    """
    found = []
    try:
        for one in _examine(make(), make()):
            found.append(one)
    except UserError as error:
        found += error.messages
    return found


def _examine(task: Task, other: Task) -> Iterator[Message]:
    yield from _data(task, other)
    yield from _models(task, other)
    loop = Loop(task, LoneChannel(), Session())
    try:
        loop.state.prepare()
        yield from _optimizers(loop.state.model, loop.state.updating)
        indices = loop.order.take(0, 0, min(loop.order.samples, task.global_batch))
        trial = Trial(loop, indices)
        yield from trial.loss()
        yield from trial.evaluation()
    finally:
        loop.state.let_go()


def _data(task: Task, other: Task) -> Iterator[Message]:
    one, two = by_place(task.dataset()), by_place(other.dataset())
    endless = Order.of(one, 1, 0).endless
    if not endless and len(one) != len(two):
        what = f"dataset() has {len(one)} samples at one time and {len(two)} at another"
        yield Message("SW6201", f"{what}; each worker makes it by itself, so fix what is random")
        return
    made: Any = (one, two)
    places = range(LOOKED_AT) if endless else range(0, len(one), max(1, len(one) // LOOKED_AT))
    for index in places:
        for where, data in (("when it is read again", one), ("when dataset() is made again", two)):
            # What is drawn from the seeded generators is the same in every world, as augmentation.
            seed_step(task.seed, 0, 0)
            sample = made[0][index]
            seed_step(task.seed, 0, 0)
            if not _same(sample, data[index]):
                yield Message(
                    "SW6201",
                    f"sample {index} of dataset() is another one {where}; each worker makes it by "
                    "itself, so fix what is random by a seed, and draw augmentation from random, "
                    "numpy.random or torch without a generator of your own",
                )
                return


def _models(task: Task, other: Task) -> Iterator[Message]:
    built = []
    for one in (task, other):
        torch.manual_seed(one.seed)
        built.append(one.model().state_dict())
    differing = [name for name, value in built[0].items() if not _same(value, built[1].get(name))]
    if differing:
        yield Message(
            "SW6202",
            f"model() has other values when it is made again, in {_listed(differing)}; draw them "
            "from torch's generator, which is seeded, or load them from a file",
        )


def _optimizers(model: nn.Module, optimizers: Any) -> Iterator[Message]:
    updated = {
        id(p)
        for one in optimizers
        if isinstance(one, Optimizer)
        for group in one.param_groups
        for p in group["params"]
    }
    left = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in updated]
    if left:
        yield Message(
            "SW6203",
            f"no optimizer has {_listed(left)}: it will never change; give it to one, or freeze it "
            "(requires_grad_(False))",
        )


class Trial:
    """A task's loss and evaluation, of some samples: together, in halves, and again.

    Args:
        loop: its task is tried; nothing is trained.
        indices: the samples.
    """

    def __init__(self, loop: Loop, indices: Tensor) -> None:
        self._loop = loop
        self._indices = indices
        self._plan = loop.newest()

    def loss(self) -> Iterator[Message]:
        """Whether the loss is a mean, and whether it is the same again."""
        model = self._loop.state.model
        model.train()
        first, again = (self._mean([self._indices]) for _ in range(2))
        if not _near(first, again):
            yield Message(
                "SW6206",
                f"the loss of the same samples is {first:.6g}, and then {again:.6g}, with the same "
                "seed: it, or batch(), has random numbers that are not seeded in each step; draw "
                "them from random, numpy.random or torch without a generator of your own",
            )
            return
        model.eval()  # without dropout and batch statistics, halves make the whole
        if len(self._indices) > 1:
            whole, halves = self._mean([self._indices]), self._mean(_halves(self._indices))
            # Samples that are augmented have another loss each time.
            drawn = [whole, *(self._mean([self._indices], seed) for seed in range(1, DRAWS))]
            spread = max(drawn) - min(drawn)
            if abs(whole - halves) > 4 * spread and not _near(whole, halves):
                yield Message(
                    "SW6205",
                    f"the loss of {len(self._indices)} samples is {whole:.6g}, and by its halves "
                    f"{halves:.6g}: it is no mean over them, so it depends on how a batch is "
                    "split; return the mean over the batch, or (sum, count)",
                )

    def evaluation(self) -> Iterator[Message]:
        """Whether an evaluation by parts is that of the whole."""
        data = self._loop.validation
        if data is None:
            return
        samples = min(len(data), 2 * len(self._indices))
        found = [
            evaluate(samples, most, self._plan, lambda value, name: [value], self._figures)
            for most in (samples, -(-samples // 2))
        ]
        for name, whole in found[0].items():
            if not _near(whole, found[1].get(name)):
                yield Message(
                    "SW6209",
                    f"evaluate_batch(): {name} is {whole:.6g} of {samples} samples, and "
                    f"{found[1].get(name):.6g} by their halves; return (sum, count), and make of "
                    "it what is no mean in on_evaluate()",
                )

    def _figures(self, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
        return self._loop.figures_of(parts, self._plan)

    def _mean(self, parts: list[Tensor], seed: int = 0) -> float:
        loop, sums, counts = self._loop, 0.0, 0.0
        for part in parts:
            seed_step(seed, 0, 0)
            with torch.no_grad():
                _, found = loop.loss_of(part, self._plan)
            loss, _ = parted(found)
            ((total, count),) = pairs({"loss": loss}, len(part)).values()
            sums, counts = sums + float(total), counts + float(count)
        return sums / counts if counts else sums


def _halves(indices: Tensor) -> list[Tensor]:
    places = [0, len(indices) // 2, len(indices)]
    return [indices[start:stop] for start, stop in pairwise(places)]


def _near(one: float, other: float | None) -> bool:
    if other is None:
        return False
    return one == other or one != one or abs(one - other) <= TOLERANCE * max(abs(one), abs(other))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.allclose(one, other, 0, 0, equal_nan=True)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    try:
        return bool(one == other)
    except (RuntimeError, TypeError, ValueError):  # arrays, and what compares in its own way
        return repr(one) == repr(other)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
