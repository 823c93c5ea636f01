"""DistributedDataParallel in the style of PyTorch's tutorial: resumes from its own snapshot.

It knows nothing of Swell: torchrun runs it as it is. It keeps its snapshot in SWELL_OUTPUT_DIR, if
there is one, takes how many steps to make, says what it does, and saves when SIGTERM asks it to
end.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

SAVE_EVERY = 10  # steps


def main(snapshot: Path, steps: int) -> None:
    ending = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    step = 0
    if snapshot.exists():
        saved = torch.load(snapshot, weights_only=True)
        model.load_state_dict(saved["model"])
        step = saved["step"]
    print(f"rank {rank} of {size} begins at step {step}", flush=True)
    while step < steps:
        # All save together, or nobody: whoever was asked to end tells the others.
        asked = torch.tensor(float(bool(ending)))
        distributed.all_reduce(asked)
        if asked.item() or step % SAVE_EVERY == 0:
            save(snapshot, model, step, rank)
        if asked.item():
            print(f"rank {rank} saved step {step} and ends", flush=True)
            sys.exit(0)
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if rank == 0:
            print(f"step {step} loss 0.5", flush=True)
        time.sleep(0.05)
    print(f"rank {rank} of {size} has trained {step} steps", flush=True)
    distributed.destroy_process_group()


def save(snapshot: Path, model: torch.nn.Module, step: int, rank: int) -> None:
    if rank == 0:
        part = snapshot.with_suffix(".part")
        torch.save({"model": model.state_dict(), "step": step}, part)
        os.replace(part, snapshot)


if __name__ == "__main__":
    main(Path(os.environ.get("SWELL_OUTPUT_DIR", "."), "snapshot.pt"), int(sys.argv[1]))
