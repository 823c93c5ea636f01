"""What an agent and its nursery say to each other, over a socket of records that one inherits.

The nursery (``trainer.worker.nursery``) first says which modules it has imported, by their first
names, as a JSON list. From then on the agent asks for one worker at a time: a record FORK with
three descriptors, of a file with the worker's environment as JSON, and of the pipes of its channel.
The new worker itself answers, with its process id, once it is the agent's own child.
"""

from __future__ import annotations

import socket

ENV_NURSERY = "SWELL_NURSERY"  # the descriptor of the socket
ENV_MODULES = "SWELL_NURSERY_MODULES"  # what it imports, if not what most workers do: a JSON list
# For keepers, besides what the job preloads; torch imports the last at the first optimizer step.
KEEPERS_MODULES = ("torch", "torch.distributed", "torch._dynamo")
FORK = b"fork"
RECORD_LIMIT = 64 * 1024  # bytes
# Names of processes, as ps and top show them (prctl(2)).
NURSERY = "swell-nursery"
WORKER = "swell-worker"


def ask(line: socket.socket, environment: int, reads: int, writes: int) -> None:
    """Asks the nursery for a worker. Raises OSError when it is gone.

    Args:
        line: the socket to it.
        environment: a file with the worker's environment, as a JSON object.
        reads, writes: the pipes of its channel.
    """
    socket.send_fds(line, [FORK], [environment, reads, writes])


def asked(line: socket.socket) -> tuple[int, int, int] | None:
    """The descriptors that the agent asks for a worker with; None when it asks no more."""
    record, descriptors, *_ = socket.recv_fds(line, RECORD_LIMIT, 3)
    if record != FORK or len(descriptors) != 3:
        return None
    environment, reads, writes = descriptors
    return environment, reads, writes
