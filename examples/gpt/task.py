"""A small GPT as a Task: `python examples/gpt/task.py`, or `task: task.py:Chars` in a job file."""

import torch
from model import GPT, Text
from torch.nn import functional as F

from trainer import Schedule, Task, decay_groups, fit


class Chars(Task):
    """Predicts characters.

    Args:
        settings: attributes of the task, such as ``epochs`` or ``compile``.
    """

    epochs = 2
    global_batch = 32  # sequences of one step, over all workers
    unit = 4  # sequences of one pass
    precision = "bf16"
    clip_norm = 1.0
    schedule = Schedule("cosine", warmup=5, floor=0.1)
    compile = False  # True: torch.compile
    eval_every = 10
    dtype = torch.float32
    characters = 20_000

    def __init__(self, **settings):
        for name, value in settings.items():
            setattr(self, name, value)
        self.text = Text(most=self.characters)

    def dataset(self):
        return self.text

    def model(self):
        return GPT(self.text.vocabulary).to(self.dtype)

    def optimizer(self, model):
        groups = decay_groups(model, weight_decay=0.1)
        return torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95))

    def loss(self, model, batch):
        x, y = batch
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    def validation(self):
        return torch.utils.data.Subset(self.text, range(0, len(self.text), 10))

    def evaluate_batch(self, model, batch):
        return {"test_loss": self.loss(model, batch)}


if __name__ == "__main__":
    print(fit(Chars()))
