"""The models of throughput.py on two ranks: as a task, with DDP, with Horovod, and by hand.

``THROUGHPUT_MODEL`` is ``gpt`` or ``resnet``; ``THROUGHPUT_UNIT`` how many samples go into one
backward pass, 0 for all of a rank's. Started as a program, the first argument says how gradients
are summed: ``ddp`` or ``horovod``. Stamps go where jobs/mlp.py says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from jobs import mlp, models

MODEL = os.environ["THROUGHPUT_MODEL"]
UNIT = int(os.environ["THROUGHPUT_UNIT"])
BATCH, SAMPLES = 16, 512


def build() -> nn.Module:
    """The model, the same in every process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net: nn.Module = models.GPT(dropout=0.0) if MODEL == "gpt" else models.resnet18()
    return net


def optimizer(model: nn.Module) -> Optimizer:
    """As throughput.py has it in a world of one."""
    return AdamW(model.parameters(), lr=1e-4)


def data() -> tuple[Tensor, Tensor]:
    """Inputs and targets."""
    return models.tokens(SAMPLES) if MODEL == "gpt" else models.images(SAMPLES)


def train(
    model: nn.Module,
    optimizer: Optimizer,
    rank: int,
    size: int,
    unsummed: Callable[[], AbstractContextManager[Any]],
) -> None:
    """A loop written by hand.

    Args:
        unsummed: what backward passes before a step's last one run in.
    """
    x, y = data()
    stamps = mlp.Stamps()
    step = 0
    while step < mlp.total_steps():
        for batch in torch.randperm(SAMPLES).split(BATCH):
            own = batch[rank::size]
            *first, last = own.split(UNIT or len(own))
            optimizer.zero_grad()
            total = 0.0
            for part in first:
                with unsummed():
                    loss = F.cross_entropy(model(x[part]), y[part]) * (len(part) / len(own))
                    loss.backward()
                total += loss.item()
            loss = F.cross_entropy(model(x[last]), y[last]) * (len(last) / len(own))
            loss.backward()
            total += loss.item()
            optimizer.step()
            step += 1
            stamps.applied(step, size)


def ddp() -> None:
    """DistributedDataParallel, started by torchrun."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group("gloo")
    model = DistributedDataParallel(build())
    size = distributed.get_world_size()
    train(model, optimizer(model), distributed.get_rank(), size, model.no_sync)
    distributed.destroy_process_group()


def horovod() -> None:
    """DistributedOptimizer, started by horovodrun."""
    import horovod.torch as hvd

    hvd.init()
    model = build()
    summing = hvd.DistributedOptimizer(
        optimizer(model),
        named_parameters=model.named_parameters(),
        backward_passes_per_step=BATCH // hvd.size() // UNIT if UNIT else 1,
    )
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(summing, root_rank=0)
    train(model, summing, hvd.rank(), hvd.size(), nullcontext)
    hvd.shutdown()


if __name__ == "__main__":
    {"ddp": ddp, "horovod": horovod}[sys.argv[1]]()
else:
    from trainer import Task

    class Measured(Task):
        """Stamps its steps, and otherwise does only what every task does."""

        global_batch = BATCH
        unit = UNIT

        def __init__(self) -> None:
            self.x, self.y = data()
            self.epochs = -(-mlp.total_steps() * BATCH // SAMPLES)
            self.stamps = mlp.Stamps()

        def dataset(self) -> Tensor:
            return self.y

        def model(self) -> nn.Module:
            return build()

        def optimizer(self, model: nn.Module) -> Optimizer:
            return optimizer(model)

        def batch(self, dataset: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
            return self.x[indices], self.y[indices]

        def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1])

        def after_update(self, model: nn.Module, step: Any) -> None:
            self.stamps.applied(step.number, step.size)
