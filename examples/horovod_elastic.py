"""An Elastic Horovod script whose commits are written to the run's checkpoints.

It is what one would write for Horovod alone, but for the two lines with ``elastic``: when all
machines are lost, it goes on from the newest checkpoint. In a job file:

    script: examples/horovod_elastic.py
    checkpoint: {every: 50 steps}
"""

import argparse

import horovod.torch as hvd
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from trainer import elastic

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--batch-size", type=int, default=24)
args = parser.parse_args()

hvd.init()
torch.manual_seed(1)

images, labels = load_digits(return_X_y=True)
dataset = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
sampler = hvd.elastic.ElasticSampler(dataset)
loader = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())


@hvd.elastic.run
def train(state):
    if hvd.rank() == 0:
        print(f"begins in epoch {state.epoch} after {state.batches} batches", flush=True)
    while state.epoch < args.epochs:
        for index, (x, y) in enumerate(loader):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            sampler.record_batch(index, args.batch_size)
            state.batches += 1
            state.commit()
        state.epoch += 1
        sampler.set_epoch(state.epoch)
        state.commit()


state = hvd.elastic.TorchState(
    model=model, optimizer=optimizer, sampler=sampler, epoch=0, batches=0
)
elastic.checkpoint(state)
train(state)
if hvd.rank() == 0:
    print(f"trained {state.epoch} epochs in {state.batches} batches", flush=True)
