"""A small GPT in an own loop: `python examples/gpt/own_loop.py`, or `script:` in a job file."""

import math

import torch
from model import GPT, Text
from torch.nn import functional as F

from trainer import decay_groups, elastic

EPOCHS, BATCH, UNIT, RATE, WARMUP = 2, 32, 4, 3e-3, 5


def train(dtype=torch.float32, bf16=True, compile=None, characters=20_000):
    """Trains for all epochs, and returns the last step's loss.

    ``compile`` is a backend of torch.compile, such as "inductor".
    """
    torch.manual_seed(0)
    text = Text(most=characters)
    model = GPT(text.vocabulary).to(dtype)
    groups = decay_groups(model, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95))
    state = elastic.State(model=model, optimizer=optimizer)
    forward = torch.compile(model, backend=compile) if compile else model
    batches = elastic.batches(text, BATCH, unit=UNIT)
    for step in elastic.steps(state, batches, epochs=EPOCHS):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = RATE * factor(step.number - 1, step.total)
        with step:
            for part in step.split(None):  # a unit each: gradients accumulate over them
                pairs = [text[int(i)] for i in part]
                x, y = (torch.stack(one).to(step.device) for one in zip(*pairs, strict=True))
                with torch.autocast(step.device.type, torch.bfloat16, enabled=bf16):
                    loss = F.cross_entropy(forward(x).flatten(0, 1), y.flatten())
                loss = loss * (len(part) / step.batch_size)
                step.add(loss=loss)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return step.metrics["loss"]


def factor(done, total):
    """The learning rate's factor after ``done`` steps: a warm-up, and then a cosine to a tenth."""
    if done < WARMUP:
        return (done + 1) / (WARMUP + 1)
    return 0.1 + 0.9 * (1 + math.cos(math.pi * (done - WARMUP) / (total - WARMUP))) / 2


if __name__ == "__main__":
    print(train())
