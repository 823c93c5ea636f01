"""A training loop of your own that lives through drains, losses and newcomers.

python examples/own_loop.py                alone: a world of one
swell launch examples/own_loop.yaml        as a run, on whatever workers there are
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from trainer import elastic

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--micro-batch", type=int, default=None)
args = parser.parse_args()

images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images / 16, dtype=torch.float64), torch.tensor(labels)
train, test = slice(0, 1437), slice(1437, None)

torch.manual_seed(0)  # all workers build the same model
model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).double()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
batches = elastic.batches(len(labels[train]), global_batch=64)
scheduler = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, max_lr=1e-2, total_steps=args.epochs * batches.steps_per_epoch
)
# Everything that must survive. `best` is a value of ours: state.best, read and set.
state = elastic.State(model=model, optimizer=optimizer, scheduler=scheduler, best=0.0)

for step in elastic.steps(state, batches, epochs=args.epochs):
    with step:
        for part in step.split(args.micro_batch):
            x, y = images[train][part].to(step.device), labels[train][part].to(step.device)
            loss = cross_entropy(model(x), y, reduction="sum") / step.batch_size
            step.add(loss=loss)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # of the whole batch's gradient
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    if step.epoch_done:
        with torch.no_grad():
            guess = model(images[test].to(step.device)).argmax(1).cpu()
        accuracy = (guess == labels[test]).double().mean().item()
        state.best = max(state.best, accuracy)
        elastic.report(test_accuracy=accuracy)
        if step.rank == 0:
            print(f"epoch {step.epoch}: loss {step.metrics['loss']:.4f}, accuracy {accuracy:.4f}")

# Rank 0 alone comes here; the run is complete when this script ends.
print(f"the best accuracy was {state.best:.4f}")
