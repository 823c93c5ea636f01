"""Digits with Elastic Horovod: TorchState, ElasticSampler, commits. Knows nothing of Swell."""

import argparse
import time
from importlib.util import find_spec

import horovod.torch as hvd
import numpy
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--batch-size", type=int, default=24)
parser.add_argument("--batches-per-commit", type=int, default=2)
parser.add_argument("--pause", type=float, default=0.0)
args = parser.parse_args()

hvd.init()
torch.manual_seed(1)

# scikit-learn's file alone: the package takes every worker a second to import.
package, *_ = find_spec("sklearn").submodule_search_locations
table = numpy.loadtxt(f"{package}/datasets/data/digits.csv.gz", delimiter=",")
images, labels = table[:, :-1], table[:, -1].astype(int)
dataset = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
sampler = hvd.elastic.ElasticSampler(dataset)
loader = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler)

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05 * hvd.size(), momentum=0.9)
optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())


def average(value, name):
    return hvd.allreduce(torch.tensor(value), name=name).item()


@hvd.elastic.run
def train(state):
    while state.epoch < args.epochs:
        state.model.train()
        total, seen = 0.0, 0
        for index, (x, y) in enumerate(loader):
            state.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(state.model(x), y)
            loss.backward()
            state.optimizer.step()
            total, seen = total + loss.item(), seen + 1
            time.sleep(args.pause)
            sampler.record_batch(index, args.batch_size)
            if index % args.batches_per_commit == args.batches_per_commit - 1:
                state.commit()
        mean = average(total / max(seen, 1), "epoch_loss")
        if hvd.rank() == 0:
            print(f"epoch {state.epoch} loss {mean:.4f} size {hvd.size()}", flush=True)
        state.epoch += 1
        sampler.set_epoch(state.epoch)
        state.commit()


state = hvd.elastic.TorchState(model=model, optimizer=optimizer, sampler=sampler, epoch=0)
train(state)
if hvd.rank() == 0:
    print(f"trained {state.epoch} epochs", flush=True)
