"""A loop that loses time in every way there is, and writes down itself how much.

All of its times are of the clock that all processes of this machine share. Of each step a line says
when this rank had begun with it, when its gradients were complete, and when they were summed.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer import elastic

RECORD = Path(sys.argv[1])
SAMPLES, BATCH, EPOCHS = 96, 12, 9
own = (RECORD / f"{os.getpid()}-{time.time_ns()}.jsonl").open("w")
spent = dict.fromkeys(("data_wait", "checkpoint", "evaluation"), 0.0)


def note(**line: object) -> None:
    print(json.dumps(line), file=own, flush=True)


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def takes(what: str, seconds: float) -> None:
    began = now()
    time.sleep(seconds)
    spent[what] += now() - began


class Slow(torch.utils.data.Dataset[torch.Tensor]):
    """A data set that is slow to give a sample."""

    def __getitem__(self, index: int) -> torch.Tensor:
        takes("data_wait", 0.03)
        return torch.full((4,), index / SAMPLES)


stat = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
note(born=float(stat[19]) / os.sysconf("SC_CLK_TCK"), pool=os.environ.get("CLUSTER_SPEC", ""))
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
state = elastic.State(model=model, optimizer=optimizer)
batches = elastic.batches(SAMPLES, BATCH)
held_up = False


def slowly(save: Callable[..., bool]) -> Callable[..., bool]:
    """As if the store were slow, and all waited for it."""

    def saved(*args: Any, **options: Any) -> bool:
        takes("checkpoint", 0.4)
        began = now()
        found = save(*args, **options)
        spent["checkpoint"] += now() - began
        return found

    return saved


for step in elastic.steps(state, batches, epochs=EPOCHS, data=Slow()):
    loop: Any = elastic.running()
    if not held_up:
        held_up, loop._saving.save = True, slowly(loop._saving.save)
    with step:
        began = now()
        loss = model(step.batch).square().sum() / step.batch_size
        time.sleep(0.05)
        if step.rank == step.size - 1:
            time.sleep(0.15)  # it straggles
        step.add(loss=loss)
        complete = now()
        loss.backward()
        summed = now()
        optimizer.step()
        optimizer.zero_grad()
    if step.applied:
        note(
            world=loop._generations.number,
            rank=step.rank,
            size=step.size,
            step=step.number,
            began=began,
            complete=complete,
            summed=summed,
            **spent,
        )
        spent = dict.fromkeys(spent, 0.0)
    if step.number % 8 == 0:
        with elastic.together():
            takes("evaluation", 0.5)
            elastic.report(accuracy=1.0)
note(ended=now(), **spent)
