"""A loop of one's own beside a module of one's own: what `code: .` sends along."""

import argparse

import torch
from network import network

from trainer import elastic

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=20)
options = parser.parse_args()

torch.manual_seed(0)
x = torch.linspace(-1, 1, 1024).unsqueeze(1)
dataset = torch.utils.data.TensorDataset(x, x**2)
model = network()
state = elastic.State(model=model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-2))

for step in elastic.steps(state, elastic.batches(dataset, 64, seed=0), epochs=options.epochs):
    with step:
        inputs, wanted = dataset[step.indices]
        loss = (model(inputs) - wanted).square().sum() / step.batch_size
        step.add(loss=loss)
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
