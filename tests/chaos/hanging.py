"""A Horovod script of which a test can have any rank hang, in any of the ways there are.

Its argument is a folder. While the file ``KIND@RANK`` is in it, that rank does at its next step as
the kind says: ``deadlock``, ``loop``, ``leave`` (its loop, and does something else) or ``other``
(another collective than all the others, which cannot be taken back).
"""

import sys
import threading
import time
from pathlib import Path

import horovod.torch as hvd
import torch

FOLDER = Path(sys.argv[1])


def wanted(kind: str) -> bool:
    return (FOLDER / f"{kind}@{hvd.rank()}").exists()


def deadlock() -> None:
    lock = threading.Lock()
    lock.acquire()

    def let_go() -> None:
        while wanted("deadlock"):
            time.sleep(0.05)
        lock.release()

    threading.Thread(target=let_go, daemon=True).start()
    lock.acquire()  # here it hangs


def loop() -> None:
    while wanted("loop"):
        sum(range(1000))


def leave() -> None:
    while wanted("leave"):
        time.sleep(0.05)


def train() -> None:
    """Takes steps until somebody leaves."""
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    while not wanted("leave"):
        if wanted("deadlock"):
            deadlock()
        if wanted("loop"):
            loop()
        if wanted("other"):
            hvd.broadcast(torch.ones(1), 0, name="other")
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        for name, parameter in model.named_parameters():
            parameter.grad = hvd.allreduce(parameter.grad, name=name)
        optimizer.step()
        time.sleep(0.02)


hvd.init()
while True:
    train()
    leave()
