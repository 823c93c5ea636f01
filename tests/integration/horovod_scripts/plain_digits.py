"""Digits with plain Horovod and a checkpoint of its own. Knows nothing of Swell."""

import os
import sys
import time
from importlib.util import find_spec

import horovod.torch as hvd
import numpy
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

folder, epochs = sys.argv[1], int(sys.argv[2])
checkpoint = os.path.join(folder, "plain.pt")

hvd.init()
torch.manual_seed(1)
# scikit-learn's file alone: the package takes every worker a second to import.
package, *_ = find_spec("sklearn").submodule_search_locations
table = numpy.loadtxt(f"{package}/datasets/data/digits.csv.gz", delimiter=",")
images, labels = table[:, :-1], table[:, -1].astype(int)
dataset = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
sampler = DistributedSampler(dataset, num_replicas=hvd.size(), rank=hvd.rank())
loader = DataLoader(dataset, batch_size=32, sampler=sampler)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05 * hvd.size(), momentum=0.9)
first = 0
if hvd.rank() == 0 and os.path.exists(checkpoint):
    saved = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    first = saved["epoch"]
first = hvd.broadcast_object(first, root_rank=0)
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
hvd.broadcast_optimizer_state(optimizer, root_rank=0)
optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
print(f"rank {hvd.rank()} of {hvd.size()} begins at epoch {first}", flush=True)

for epoch in range(first, epochs):
    sampler.set_epoch(epoch)
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        time.sleep(0.02)
    if hvd.rank() == 0:
        print(f"epoch {epoch} loss {loss.item():.4f}", flush=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**state, "epoch": epoch + 1}, checkpoint + ".new")
        os.replace(checkpoint + ".new", checkpoint)
hvd.shutdown()
