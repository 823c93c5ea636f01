"""The same case as a user of Swell writes it: see trainer.elastic."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from torch import nn
from torch.nn import functional as F

from tests.conformance.cases import Case
from tests.conformance.training import (
    BATCH,
    CLIP,
    EPOCHS,
    LATE,
    MICRO,
    Trained,
    build,
    data,
    trained,
)
from trainer import elastic


def train(case: Case) -> Trained:
    """Trains a case for all its epochs, or for as long as this worker is needed."""
    parts = build(case)
    model, optimizers, schedules = parts.model, parts.optimizers, parts.schedules
    x, y = data(case)
    helpers: dict[str, Any] = {
        **{f"optimizer{i}": optimizer for i, optimizer in enumerate(optimizers)},
        **{f"schedule{i}": schedule for i, schedule in enumerate(schedules)},
    }
    state = elastic.State(model=model, **helpers)
    batches = elastic.batches(x, global_batch=BATCH, seed=case.seed)
    losses: dict[int, float] = {}
    added = False

    def evaluate(step: elastic.Step) -> float:
        for optimizer in optimizers:
            optimizer.zero_grad()
        total = 0.0
        for part in step.split(MICRO if case.accumulate else None):
            loss = F.mse_loss(model(x[part]), y[part], reduction="sum") / step.batch_size
            step.add(loss=loss)
            loss.backward()
            total += loss.item()
        if case.clip:
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        return total

    with suppress(SystemExit):  # rank 0 alone goes on after the loop
        for step in elastic.steps(state, batches, epochs=EPOCHS):
            if step.epoch >= LATE:
                for parameter in model.late:
                    parameter.requires_grad_(case.parameters != "refrozen")
                if case.parameters == "added" and not added:
                    optimizers[0].add_param_group({"params": model.late, "lr": 0.01})
                    added = True
            with step:
                if case.closure:
                    optimizers[0].step(partial(evaluate, step))
                else:
                    evaluate(step)
                    for optimizer in optimizers:
                        optimizer.step()
                for schedule in schedules:
                    schedule.step()
            if step.applied:
                losses[step.number] = step.metrics["loss"]
    return trained(model, losses)
