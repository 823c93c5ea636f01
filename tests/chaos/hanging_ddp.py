"""A script for torchrun, any rank of which can be made to hang.

As hanging.py, with the kind ``deadlock`` alone, which lasts.
"""

import sys
import threading
import time
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from trainer import report

FOLDER = Path(sys.argv[1])


def deadlock() -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire()  # here it hangs


distributed.init_process_group("gloo")
rank = distributed.get_rank()
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.01)
step = 0
while True:
    if (FOLDER / f"deadlock@{rank}").exists():
        deadlock()
    optimizer.zero_grad()
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    step += 1
    if rank == 0:
        report(step=step)
    time.sleep(0.02)
