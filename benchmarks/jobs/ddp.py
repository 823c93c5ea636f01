"""DistributedDataParallel, as its documentation shows it; started by torchrun."""

from __future__ import annotations

import os

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from jobs import mlp


def main() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    stamps = mlp.Stamps()
    model = DistributedDataParallel(
        mlp.build(), gradient_as_bucket_view=bool(os.environ.get("MLP_VIEWS"))
    )
    optimizer = mlp.optimizer(model)
    x, y = mlp.data()
    for step in range(mlp.total_steps()):
        indices = mlp.share(step, rank, size)
        optimizer.zero_grad()
        mlp.loss(model, x[indices], y[indices]).backward()
        optimizer.step()
        stamps.applied(step + 1, rank, size)
    distributed.destroy_process_group()


main()
