"""A case as plain PyTorch: one process, the whole batch at once."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from tests.conformance.cases import Case
from tests.conformance.training import BATCH, CLIP, EPOCHS, LATE, Trained, build, data, trained
from trainer.engine.data import Order  # which samples a step takes is Swell's to say


def train(case: Case) -> Trained:
    """Trains a case for all its epochs."""
    parts = build(case)
    model, optimizers, schedules = parts.model, parts.optimizers, parts.schedules
    x, y = data(case)
    order = Order(len(x), BATCH, case.seed)
    losses: list[float] = []

    def evaluate(batch: Tensor) -> float:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = F.mse_loss(model(x[batch]), y[batch], reduction="sum") / len(batch)
        loss.backward()
        if case.clip:
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        losses.append(loss.item())
        return loss.item()

    for epoch in range(EPOCHS):
        if epoch == LATE:
            for parameter in model.late:
                parameter.requires_grad_(case.parameters != "refrozen")
            if case.parameters == "added":
                optimizers[0].add_param_group({"params": model.late, "lr": 0.01})
        for batch in order.permutation(epoch).split(BATCH):
            if case.closure:
                optimizers[0].step(partial(evaluate, batch))
            else:
                evaluate(batch)
                for optimizer in optimizers:
                    optimizer.step()
            for schedule in schedules:
                schedule.step()
    return trained(model, dict(enumerate(losses, 1)))
