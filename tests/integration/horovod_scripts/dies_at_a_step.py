"""A plain Horovod script, one of whose workers dies in native code at its seventh step."""

import ctypes

import horovod.torch as hvd
import torch

hvd.init()
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
plain = torch.optim.SGD(model.parameters(), lr=0.01)
optimizer = hvd.DistributedOptimizer(plain, named_parameters=model.named_parameters())
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
for step in range(1, 21):
    if step == 7 and hvd.rank() == hvd.size() - 1:
        ctypes.string_at(0)
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
