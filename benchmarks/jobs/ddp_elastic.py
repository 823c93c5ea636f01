"""DistributedDataParallel that resumes from a snapshot; started by torchrun on every host.

torchrun starts all processes anew when a host comes or goes, so the state goes through a file.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from jobs import mlp

SAVE_EVERY = 10  # steps
TIMEOUT = timedelta(seconds=10)  # of a collective; the default is 30 minutes


def main() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    distributed.init_process_group("gloo", timeout=TIMEOUT)
    rank, size = distributed.get_rank(), distributed.get_world_size()
    stamps = mlp.Stamps()
    model = DistributedDataParallel(mlp.build())
    optimizer = mlp.optimizer(model)
    snapshot = Path(os.environ["MLP_SNAPSHOT"])
    step = 0
    if snapshot.exists():
        saved = torch.load(snapshot, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    x, y = mlp.data()
    while step < mlp.total_steps():
        indices = mlp.share(step, rank, size)
        optimizer.zero_grad()
        mlp.loss(model, x[indices], y[indices]).backward()
        optimizer.step()
        step += 1
        stamps.applied(step, size)
        if rank == 0 and step % SAVE_EVERY == 0:
            part = snapshot.with_suffix(".part")
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step}, part)
            part.replace(snapshot)
    distributed.destroy_process_group()


main()
