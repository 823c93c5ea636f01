"""Lightning's Trainer with DDP: saves when asked, and goes on from the newest checkpoint.

Lightning's own handler of SIGTERM starts a collective in the midst of whatever the process does;
ranks that are told at different moments then wait for each other. So a callback takes its place.

    swell launch examples/torchrun/lightning_ddp.py -- --steps 200
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

OUTPUT = Path(os.environ.get("SWELL_OUTPUT_DIR", "output"))


class Sum(pl.LightningModule):
    """Learns to add."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class SaveWhenAsked(pl.Callback):
    """All ranks save, and end, at the step at which the first of them knows that it is to end."""

    def __init__(self, pause: float) -> None:
        self.ended = False
        self._asked = False
        self._pause = pause

    def _ask(self, *_: object) -> None:
        self._asked = True

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        signal.signal(signal.SIGTERM, self._ask)  # in place of Lightning's
        rank, size = trainer.global_rank, trainer.world_size
        print(f"rank {rank} of {size} begins at step {trainer.global_step}", flush=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        time.sleep(self._pause)
        step = trainer.global_step
        if trainer.is_global_zero:
            print(f"step {step} loss {float(outputs['loss']):.6f}", flush=True)
        asked = torch.tensor(float(self._asked), device=module.device)
        if trainer.strategy.reduce(asked, reduce_op="sum"):
            trainer.save_checkpoint(OUTPUT / f"step={step}.ckpt")
            self.ended = trainer.should_stop = True


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--save-every", type=int, default=20)
    options.add_argument("--pause", type=float, default=0.0, help="seconds, for each step")
    args = options.parse_args()
    pl.seed_everything(0, verbose=False)
    x = torch.randn(4096, 16)
    data = DataLoader(TensorDataset(x, x.sum(dim=1, keepdim=True)), batch_size=8, shuffle=True)
    asked = SaveWhenAsked(args.pause)
    every = ModelCheckpoint(
        OUTPUT,
        filename="{step}",
        every_n_train_steps=args.save_every,
        save_top_k=-1,
        enable_version_counter=False,  # a step that was just saved when asked is no other one
    )
    trainer = pl.Trainer(
        strategy="ddp",
        accelerator="auto",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
        max_steps=args.steps,
        max_epochs=-1,
        default_root_dir=OUTPUT,
        callbacks=[asked, every],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    found = sorted(OUTPUT.glob("step=*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    trainer.fit(Sum(), data, ckpt_path=found[-1] if found else None)
    rank, size = trainer.global_rank, trainer.world_size
    if asked.ended:
        print(f"rank {rank} saved step {trainer.global_step} and ends", flush=True)
        return
    print(f"rank {rank} of {size} has trained {trainer.global_step} steps", flush=True)


if __name__ == "__main__":
    main()
