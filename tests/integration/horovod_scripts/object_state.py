"""Elastic Horovod with an ObjectState and a reset callback. Knows nothing of Swell.

One rank raises once; a file says that it has.
"""

import sys
import time
from pathlib import Path

import horovod.torch as hvd
import torch
from horovod.common.elastic import ObjectState

hvd.init()
rounds, raised = int(sys.argv[1]), Path(sys.argv[2])
sizes = []


def on_reset():
    print(f"reset: size {hvd.size()}", flush=True)
    sizes.append(hvd.size())


@hvd.elastic.run
def count(state):
    while state.round < rounds:
        ones = hvd.allreduce(torch.ones(1), op=hvd.Sum, name="ones")
        if state.round > 20 and hvd.rank() > 0 and not raised.exists():
            raised.touch()
            raise ConnectionResetError("this machine's line to its data")
        state.total += int(ones.item()) // hvd.size()
        state.round += 1
        time.sleep(0.03)
        if state.round % 5 == 0:
            state.commit()
        else:
            state.check_host_updates()


state = ObjectState(hvd.broadcast_object, hvd.rank, round=0, total=0)
state.register_reset_callbacks([on_reset])
count(state)
assert state.total == rounds, (state.total, rounds)
if hvd.rank() == 0:
    print(f"counted {state.total} rounds after {len(sizes)} resets", flush=True)
