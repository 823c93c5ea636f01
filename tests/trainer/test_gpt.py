"""The GPT of examples/gpt, as a task and as a loop of its own, trains what a plain loop trains."""

from __future__ import annotations

import functools
import importlib
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.conformance.journey import Stage
from tests.trainer.engine.loops import travelled
from trainer.engine.data import Order
from trainer.engine.generators import seed_step
from trainer.engine.units import cuts

FOLDER = Path(__file__).parents[2] / "examples/gpt"
CHARACTERS, STEPS = 4000, 8
# A soak: aot_eager takes 85 s of one processor for both; inductor a compiler, and longer.
BACKEND = "aot_eager"
# Of three one is killed in a step, later the two pause, and one that has nothing is rank 0.
JOURNEY = [Stage((0, 1, 2), 1, 3, dies=1), Stage((0, 2), 3, 5, asks=1), Stage((3, 2, 0), 6)]
# The same with fewer processes: each compiles the model for itself.
FEWER = [Stage((0, 1), 1, 3, dies=1), Stage((0,), 3, 5, asks=0), Stage((2, 0), 6)]


def plainly(low: bool, backend: str | None, log: list[Any]) -> None:
    """As nanoGPT has it: decay groups, a warm-up and a cosine, clipping, accumulation, dropout."""
    model_file, own_loop = _example("model"), _example("own_loop")
    torch.manual_seed(0)
    text = model_file.Text(most=CHARACTERS)
    model = model_file.GPT(text.vocabulary).to(torch.float32 if low else torch.float64)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95))
    forward = torch.compile(model, backend=backend) if backend else model
    order = Order(len(text), 32, 0)
    for number in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * own_loop.factor(number, STEPS)
        start, stop = order.bounds(number)
        samples = order.permutation(order.epoch_of(number))
        optimizer.zero_grad()
        total = 0.0
        for micro, (low_end, high_end) in enumerate(pairwise(cuts(start, stop, 4))):
            seed_step(0, number, micro)
            pairs = [text[int(i)] for i in samples[low_end:high_end]]
            x, y = (torch.stack(one) for one in zip(*pairs, strict=True))
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = F.cross_entropy(forward(x).flatten(0, 1), y.flatten())
            loss = loss * (len(x) / (stop - start))
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        log.append(total)


def as_task(low: bool, backend: str | None, log: list[Any]) -> None:
    task = _example("task")
    noting(log)
    precision = {"precision": "bf16"} if low else {"precision": "fp32", "dtype": torch.float64}
    task.fit(task.Chars(characters=CHARACTERS, compile=backend or False, **precision))


def as_loop(low: bool, backend: str | None, log: list[Any]) -> None:
    own_loop = _example("own_loop")
    noting(log)
    own_loop.train(
        torch.float32 if low else torch.float64, bf16=low, compile=backend, characters=CHARACTERS
    )


def noting(log: list[Any]) -> None:
    """Has the loss of each step noted that this process, which is a worker's, applies."""
    from trainer.engine.steps import Steps

    completed = Steps._completed

    def noted(self: Steps, step: Any) -> None:
        log.append(step.metrics["loss"])
        completed(self, step)

    Steps._completed = noted  # type: ignore[method-assign]


def _example(name: str) -> Any:
    sys.path.insert(0, str(FOLDER))
    return importlib.import_module(name)


@functools.cache
def expected(low: bool, backend: str | None) -> list[float]:
    from tests.trainer.ranks import alone

    losses: list[float] = alone(_plain, low, backend)
    return losses


def _plain(low: bool, backend: str | None) -> list[float]:
    log: list[float] = []
    plainly(low, backend, log)
    return log


@pytest.mark.parametrize(
    "run, low, backend, near",
    [
        (as_task, False, None, 1e-9),
        (as_loop, False, None, 1e-9),
        (as_task, True, None, 2e-3),
        pytest.param(as_task, False, BACKEND, 1e-9, marks=pytest.mark.soak),
        pytest.param(as_loop, False, BACKEND, 1e-9, marks=pytest.mark.soak),
    ],
    ids=["task", "loop", "task in bf16", "compiled task", "compiled loop"],
)
def test_it_trains_as_in_a_plain_loop_through_a_loss_and_a_drain(
    run: Any, low: bool, backend: str | None, near: float
) -> None:
    journey, steps = (FEWER, {0: 8, 2: 3}) if backend else (JOURNEY, {0: 8, 2: 8, 3: 3})
    outcomes = travelled(journey, functools.partial(run, low, backend))
    assert {member: len(one.log) for member, one in outcomes.items()} == steps
    losses = expected(low, backend)
    for outcome in outcomes.values():
        assert outcome.error == ""
        assert outcome.log == pytest.approx(losses[-len(outcome.log) :], rel=near)
    assert losses[-1] < losses[0]
