"""A GPT of 100 M parameters, as a task for ``trainer.fit`` and as a plain loop.

``MEMORY_PRECISION`` says how it computes: ``fp32``, ``bf16`` (autocast), or ``pure-bf16`` with
parameters, gradients and averages in bfloat16. After each step a process writes what memory it has
into a file of its own in the folder ``MEMORY_NOTES``.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from jobs import models

BATCH = 2
STEPS = 6  # after which memory is what it stays
PRECISION = os.environ["MEMORY_PRECISION"]


def build() -> nn.Module:
    """The model, the same in every process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = models.GPT(dropout=0.0, width=768, layers=12, vocabulary=20_000)
    return net.bfloat16() if PRECISION == "pure-bf16" else net


def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss over the samples."""
    return F.cross_entropy(model(x), y)


def note(step: int) -> None:
    """Writes ``step resident peak``, both in MiB, as the kernel counts them."""
    said = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident, peak = (int(said[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    with (Path(os.environ["MEMORY_NOTES"]) / str(os.getpid())).open("a") as file:
        file.write(f"{step} {resident:.1f} {peak:.1f}\n")


def plain() -> None:
    """The loop, written by hand."""
    model = build()
    optimizer = AdamW(model.parameters(), lr=1e-4)
    x, y = models.tokens(64)
    for step in range(1, STEPS + 1):
        part = torch.arange(BATCH) + step
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION == "bf16"):
            found = loss(model, x[part], y[part])
        found.backward()
        optimizer.step()
        found.item()
        note(step)


if __name__ == "__main__":
    plain()
else:
    from trainer import Task

    class Gpt(Task):
        """Notes its memory after each step, and otherwise does only what every task does."""

        epochs = 1000
        global_batch = int(os.environ["MEMORY_BATCH"])
        precision = "bf16" if PRECISION == "bf16" else "fp32"

        def __init__(self) -> None:
            self.x, self.y = models.tokens(64)

        def dataset(self) -> Tensor:
            return self.y

        def model(self) -> nn.Module:
            return build()

        def optimizer(self, model: nn.Module) -> Optimizer:
            return AdamW(model.parameters(), lr=1e-4)

        def batch(self, dataset: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
            return self.x[indices], self.y[indices]

        def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return loss(model, *batch)

        def after_update(self, model: nn.Module, step: object) -> None:
            note(step.number)  # type: ignore[attr-defined]
