"""transformers' Trainer, which resumes from its own newest checkpoint; a small GPT-2.

What starts it starts all processes anew when a host comes or goes. Checkpoints are in a folder that
all hosts share.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from jobs import mlp

SAVE_EVERY = 10  # steps
TIMEOUT = 10  # seconds, of a collective; the default is 30 minutes
LENGTH, VOCABULARY = 32, 512


class Counting(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sequences that count up from somewhere."""

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (index + torch.arange(LENGTH)) % VOCABULARY
        return {"input_ids": tokens, "labels": tokens}


class Stamped(TrainerCallback):  # type: ignore[misc]
    """Notes every step."""

    def __init__(self) -> None:
        self._stamps = mlp.Stamps()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stamps.applied(state.global_step, args.world_size)


def newest(folder: Path) -> str | None:
    """The newest checkpoint that is complete: its state is what Trainer writes last."""
    found = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    by_step = sorted(found, key=lambda path: int(path.name.partition("-")[2]))
    return str(by_step[-1]) if by_step else None


def main() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    folder = Path(os.environ["MLP_SNAPSHOT"])
    shape = GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=128, n_layer=2, n_head=4, use_cache=False
    )
    args = TrainingArguments(
        str(folder),
        max_steps=mlp.total_steps(),
        per_device_train_batch_size=4,
        save_steps=SAVE_EVERY,
        save_total_limit=3,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        ddp_backend="gloo",
        ddp_timeout=TIMEOUT,
    )
    trainer = Trainer(GPT2LMHeadModel(shape), args, train_dataset=Counting(), callbacks=[Stamped()])
    trainer.train(resume_from_checkpoint=newest(folder))


if __name__ == "__main__":
    main()
