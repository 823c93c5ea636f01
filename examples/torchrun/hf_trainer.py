"""Hugging Face's Trainer: a small GPT-2 that learns to count, and resumes from its own checkpoints.

What makes it fit for machines that come and go is no more than this: checkpoints are in
SWELL_OUTPUT_DIR, the newest is resumed from, and a callback has all ranks save at one step when
SIGTERM asks them to end. (``enable_jit_checkpoint=True`` is Trainer's own way to do so, but each
rank decides for itself at which step.)

    swell launch examples/torchrun/hf_trainer.py -- --steps 200
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from typing import Any

import torch
from torch import distributed
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

OUTPUT = os.environ.get("SWELL_OUTPUT_DIR", "output")
LENGTH = 16  # tokens
VOCABULARY = 64


class Counting(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sequences that count up from somewhere."""

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (index + torch.arange(LENGTH)) % VOCABULARY
        return {"input_ids": tokens, "labels": tokens}


class SaveWhenAsked(TrainerCallback):
    """All ranks save, and end, at the step at which the first of them knows that it is to end."""

    def __init__(self, pause: float) -> None:
        self.ended = False
        self._asked = False
        self._pause = pause
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        rank, size = args.process_index, args.world_size
        print(f"rank {rank} of {size} begins at step {state.global_step}", flush=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        time.sleep(self._pause)
        asked = torch.tensor(float(self._asked), device=args.device)
        if distributed.is_initialized():
            distributed.all_reduce(asked)
        if asked.item():
            self.ended = control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and "loss" in logs:
            print(f"step {state.global_step} loss {float(logs['loss']):.6f}", flush=True)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--save-every", type=int, default=20)
    options.add_argument("--pause", type=float, default=0.0, help="seconds, for each step")
    args = options.parse_args()
    shape = GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2, use_cache=False
    )
    asked = SaveWhenAsked(args.pause)
    trainer = Trainer(
        GPT2LMHeadModel(shape),
        TrainingArguments(
            OUTPUT,
            max_steps=args.steps,
            per_device_train_batch_size=4,
            save_steps=args.save_every,
            save_total_limit=2,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            ddp_backend=None if torch.cuda.is_available() else "gloo",
        ),
        train_dataset=Counting(),
        callbacks=[asked],
    )
    newest = get_last_checkpoint(OUTPUT) if os.path.isdir(OUTPUT) else None
    trainer.train(resume_from_checkpoint=newest)
    rank, size = trainer.args.process_index, trainer.args.world_size
    if asked.ended:
        print(f"rank {rank} saved step {trainer.state.global_step} and ends", flush=True)
        return
    print(f"rank {rank} of {size} has trained {trainer.state.global_step} steps", flush=True)


if __name__ == "__main__":
    main()
