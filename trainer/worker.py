"""One training process: `python -m trainer.worker`, started by an agent for one slot.

It imports everything and builds its model first, and only then says that it is ready:
so a re-formation of the world never waits for a process to start. Then it lives
through generations until its agent tells it to exit.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback

from trainer.channel import AgentChannel
from trainer.session import Session, current_session

PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> int:
    """Runs the worker. Returns its exit code: 0, or 1 when the user's code raised."""
    die_with_parent()
    # A preemption's SIGTERM goes to the agent, which asks for a pause at a step boundary.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = AgentChannel.inherited()
    if channel is None:
        print("trainer.worker is started by an agent (swell-agent)", file=sys.stderr)
        return 2
    channel.beat()
    session = current_session()
    try:
        train(session, channel)
    except Exception:  # whatever the user's code raises ends the run, with its traceback
        channel.send("failed", reason=traceback.format_exc())
        return 1
    return 0


def train(session: Session, channel: AgentChannel) -> None:
    """Builds the session's task and trains it for as long as the channel lasts."""
    import torch

    from trainer.loading import load_class
    from trainer.loop import fit

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    task = load_class(session.task)(**session.task_args)
    fit(task, channel)


def die_with_parent() -> None:
    """Asks the kernel to kill this process when the one that started it is gone."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
