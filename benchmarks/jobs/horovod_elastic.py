"""Elastic Horovod, as its documentation shows it; started by horovodrun's elastic driver."""

from __future__ import annotations

import os
from typing import Any

import horovod.torch as hvd
import torch

from jobs import mlp

COMMIT_EVERY = 10  # steps


def main() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    hvd.init()
    stamps = mlp.Stamps()
    model = mlp.build()
    optimizer = hvd.DistributedOptimizer(
        mlp.optimizer(model), named_parameters=model.named_parameters()
    )
    x, y = mlp.data()
    resets: list[int] = []

    @hvd.elastic.run  # type: ignore[untyped-decorator]
    def train(state: Any) -> None:
        while state.step < mlp.total_steps():
            indices = mlp.share(state.step, hvd.rank(), hvd.size())
            optimizer.zero_grad()
            mlp.loss(model, x[indices], y[indices]).backward()
            optimizer.step()
            state.step += 1
            stamps.applied(state.step, hvd.size(), len(resets))
            if state.step % COMMIT_EVERY == 0:
                state.commit()
            else:
                state.check_host_updates()

    state = hvd.elastic.TorchState(model=model, optimizer=optimizer, step=0)
    state.register_reset_callbacks([lambda: resets.append(hvd.size())])
    train(state)


main()
