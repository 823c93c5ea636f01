"""Plain Horovod, as its documentation shows it; started by horovodrun."""

from __future__ import annotations

import os

import horovod.torch as hvd
import torch

from jobs import mlp


def main() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    hvd.init()
    stamps = mlp.Stamps()
    model = mlp.build()
    optimizer = hvd.DistributedOptimizer(
        mlp.optimizer(model), named_parameters=model.named_parameters()
    )
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    x, y = mlp.data()
    for step in range(mlp.total_steps()):
        indices = mlp.share(step, hvd.rank(), hvd.size())
        optimizer.zero_grad()
        mlp.loss(model, x[indices], y[indices]).backward()
        optimizer.step()
        stamps.applied(step + 1, hvd.rank(), hvd.size())
    hvd.shutdown()


main()
