"""A loop whose worker dies in native code whenever it takes one sample of the second epoch."""

import ctypes

import torch

from trainer import elastic

X = torch.linspace(-1, 1, 240 * 4).view(240, 4)
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
state = elastic.State(model=model, optimizer=optimizer)
for step in elastic.steps(state, elastic.batches(240, 24), epochs=6):
    with step:
        if step.epoch == 1 and 77 in step.indices.tolist():
            ctypes.string_at(0)
        loss = model(X[step.indices]).square().sum() / step.batch_size
        step.add(loss=loss)
        loss.backward()
        optimizer.step()
