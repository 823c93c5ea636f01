"""A training loop of your own, which goes on while machines come and go.

python own_loop.py            alone, in one process
swell launch own_loop.yaml    as a run, on whatever workers there are
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

from trainer import elastic


def main() -> None:
    """Learns to square numbers: put your data and your model in their place."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=1e-2)
    options = parser.parse_args()

    torch.manual_seed(0)  # all workers build the same model
    x = torch.linspace(-1, 1, 1024).unsqueeze(1)
    dataset = TensorDataset(x, x**2)
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)

    # What must survive goes in the state: a scheduler, too, or a value, as State(…, best=0.0).
    state = elastic.State(model=model, optimizer=optimizer)
    # Samples of one step over all workers, however many there are.
    batches = elastic.batches(dataset, global_batch=64, seed=0)
    for step in elastic.steps(state, batches, epochs=options.epochs):
        with step:  # when a worker is lost, the block ends early, and the same step comes again
            for part in step.split(None):  # this worker's samples
                inputs, wanted = (it.to(step.device) for it in dataset[part.tolist()])
                # A summed loss, divided by the samples of all workers: their gradients add up.
                loss = mse_loss(model(inputs), wanted, reduction="sum") / step.batch_size
                step.add(loss=loss)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if step.epoch_done and step.rank == 0:
            print(f"epoch {step.epoch}: loss {step.metrics['loss']:.5f}")


if __name__ == "__main__":
    main()
