"""A loop that meets most of what may go wrong on three machines; each fault happens once."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import horovod.torch as hvd
import torch

from trainer import elastic

MARKS = Path(sys.argv[1])
TASK = json.loads(os.environ["CLUSTER_SPEC"])["task"]
HERE = f"{TASK['type']}-{TASK['index']}"
ON_BAD_MACHINE = HERE == "workerpool1-0"
X = torch.linspace(-1, 1, 240 * 4).view(240, 4)


def once(fault: str) -> bool:
    """Whether this is the first worker that comes here."""
    try:
        (MARKS / fault).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if HERE == "workerpool1-1" and once("busy before anybody trains"):
    raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")
if ON_BAD_MACHINE and (MARKS / "second ECC error").exists() and once("load error"):
    sys.exit("/data is not mounted here")
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
state = elastic.State(model=model, optimizer=optimizer)
for step in elastic.steps(state, elastic.batches(240, 24), epochs=80):
    time.sleep(0.1)
    with step:
        for part in step.split(None):
            if step.number >= 5 and len(part) > 4 and once("out of memory"):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if HERE == "workerpool0-0" and step.number >= 15 and once("data loader"):
                raise RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. ")
            if HERE == "workerpool1-1" and step.number >= 25 and once("ECC error elsewhere"):
                raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
            for fault, at in (("first ECC error", 25), ("second ECC error", 45)):
                if ON_BAD_MACHINE and step.number >= at and once(fault):
                    raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
            loss = model(X[part]).square().sum() / step.batch_size
            step.add(loss=loss)
            loss.backward()
        optimizer.step()
    if step.epoch_done:
        with elastic.together():
            if step.epoch == 1 and step.rank == 1 and once("killed while it evaluates"):
                os.kill(os.getpid(), signal.SIGKILL)
            size = hvd.allreduce(torch.ones(1), op=hvd.Sum, name="size")
            elastic.report(workers=float(size))
    # On one worker alone, when all has happened.
    if step.rank == 1 and (MARKS / "load error").exists() and not ON_BAD_MACHINE:
        elastic.stop()
