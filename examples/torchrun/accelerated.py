"""An Accelerate loop: ``save_state`` and ``load_state``, in folders that outlive a machine.

With another number of ranks, an epoch has another number of batches: data that were seen already
may come again, or be left out, in the epoch in which a machine comes or goes.

    swell launch examples/torchrun/accelerated.py -- --steps 200
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

OUTPUT = Path(os.environ.get("SWELL_OUTPUT_DIR", "output"))
KEPT = 2  # checkpoints


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--save-every", type=int, default=20)
    options.add_argument("--pause", type=float, default=0.0, help="seconds, for each step")
    args = options.parse_args()
    ending: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    rank, size = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(0)
    x = torch.randn(4096, 16)
    data = DataLoader(TensorDataset(x, x.sum(dim=1, keepdim=True)), batch_size=8, shuffle=True)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    step = load(accelerator)
    print(f"rank {rank} of {size} begins at step {step}", flush=True)
    while step < args.steps:
        # Where an epoch was left: with as many batches in it as this world makes of it.
        epoch, done = divmod(step, len(data))
        data.set_epoch(epoch)
        for x, y in accelerator.skip_first_batches(data, done):
            loss = nn.functional.mse_loss(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            time.sleep(args.pause)
            asked = torch.tensor(float(bool(ending)), device=accelerator.device)
            asked = accelerator.reduce(asked)  # SIGTERM reaches all, but not in one moment
            if accelerator.is_main_process:
                print(f"step {step} loss {loss.item():.6f}", flush=True)
            if asked.item() or step % args.save_every == 0 or step == args.steps:
                save(accelerator, step)
            if asked.item():
                print(f"rank {rank} saved step {step} and ends", flush=True)
                return
            if step == args.steps:
                break
    print(f"rank {rank} of {size} has trained {step} steps", flush=True)


def checkpoints() -> list[Path]:
    """Those that there are, the newest last."""
    return sorted(OUTPUT.glob("step-*"), key=lambda path: int(path.name.partition("-")[2]))


def save(accelerator: Accelerator, step: int) -> None:
    accelerator.save_state(str(OUTPUT / f"step-{step}"))
    accelerator.wait_for_everyone()
    if accelerator.is_local_main_process:
        for old in checkpoints()[:-KEPT]:
            shutil.rmtree(old)


def load(accelerator: Accelerator) -> int:
    found = checkpoints()
    if not found:
        return 0
    accelerator.load_state(str(found[-1]))
    return int(found[-1].name.partition("-")[2])


if __name__ == "__main__":
    try:
        main()
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
