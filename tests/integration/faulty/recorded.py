"""A loop that keeps a record of its own, from which a test computes every figure of its run.

Each worker writes a line for each step: when it was completed is between ``before`` and ``after``.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from trainer import elastic

RECORD, HELD_AT = Path(sys.argv[1]), int(sys.argv[2])
SAMPLES, BATCH, EPOCHS = 120, 12, 6
SAVED_BEFORE = HELD_AT // 10 * 10  # the newest checkpoint before that
X = torch.linspace(-1, 1, SAMPLES * 4).view(SAMPLES, 4)
own = (RECORD / f"{os.getpid()}-{time.time_ns()}.jsonl").open("w")


def note(**line: object) -> None:
    print(json.dumps(line), file=own, flush=True)


torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
state = elastic.State(model=model, optimizer=optimizer)
began = None  # at which step this process has
for step in elastic.steps(state, elastic.batches(SAMPLES, BATCH), epochs=EPOCHS):
    began = step.number if began is None else began
    if step.number == HELD_AT and began < SAVED_BEFORE:
        time.sleep(600)  # until this machine is gone; whoever follows begins at the checkpoint
    time.sleep(0.25)  # each is reported at once
    with step:
        loss = model(X[step.indices]).square().sum() / step.batch_size
        step.add(loss=loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        before = time.time()
    loop: Any = elastic.running()
    if step.applied:
        note(
            world=loop._generations.number,
            rank=step.rank,
            size=step.size,
            step=step.number,
            epoch=step.epoch,
            ids=step.indices.tolist(),
            loss=step.metrics["loss"],
            before=before,
            after=time.time(),
        )
    loop._saving._checkpointer.flush()
    if step.number == step.total - 1:  # the last one cannot be saved
        folder = Path(os.environ["SWELL_RUN_DIR"]) / "checkpoints" / f"step-{step.total:09d}"
        folder.write_text("in the way")
note(end=time.time())
