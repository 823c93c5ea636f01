"""FSDP2 (``fully_shard``) that saves with torch.distributed.checkpoint, and goes on from there.

Every rank writes its own shards into one folder. In another world they are split otherwise; torch
sees to that. Nothing in here is Swell's but the name of the folder: without it, the current one.

    swell launch examples/torchrun/fsdp2.py -- --steps 200
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

OUTPUT = Path(os.environ.get("SWELL_OUTPUT_DIR", "."))
KEPT = 2  # checkpoints


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--save-every", type=int, default=20)
    options.add_argument("--pause", type=float, default=0.0, help="seconds, for each step")
    args = options.parse_args()
    ending: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=distributed.init_device_mesh("cpu", (size,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step = load(model, optimizer)
    print(f"rank {rank} of {size} begins at step {step}", flush=True)
    while step < args.steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(24, 16, generator=generator)[rank::size]
        loss = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        time.sleep(args.pause)
        asked = torch.tensor(float(bool(ending)))  # SIGTERM reaches all, but not in one moment
        distributed.all_reduce(asked)
        if rank == 0:
            print(f"step {step} loss {loss.item():.6f}", flush=True)
        if asked.item() or step % args.save_every == 0 or step == args.steps:
            save(model, optimizer, step, rank)
        if asked.item():
            print(f"rank {rank} saved step {step} and ends", flush=True)
            distributed.destroy_process_group()
            sys.exit(0)
    print(f"rank {rank} of {size} has trained {step} steps", flush=True)
    distributed.destroy_process_group()


def checkpoints() -> list[Path]:
    """Those that there are, the newest last."""
    return sorted(OUTPUT.glob("step-*"), key=lambda path: int(path.name.partition("-")[2]))


def save(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, rank: int) -> None:
    states, optimizers = get_state_dict(model, optimizer)
    folder = OUTPUT / f"step-{step}"
    dcp.save({"model": states, "optimizer": optimizers, "step": step}, checkpoint_id=folder)
    if rank == 0:
        for old in checkpoints()[:-KEPT]:
            shutil.rmtree(old)


def load(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    found = checkpoints()
    if not found:
        return 0
    states, optimizers = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": states, "optimizer": optimizers, "step": 0}
    dcp.load(state, checkpoint_id=found[-1])
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    return int(state["step"])


if __name__ == "__main__":
    main()
