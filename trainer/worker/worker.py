"""One training process: `python -m trainer.worker`, started by an agent for one slot.

It imports everything and builds its model first, and only then says that it is ready:
so a re-formation of the world never waits for a process to start. Then it lives
through generations until its agent tells it to exit. A script is warm when it comes to
its first ``hvd.init()`` or its first step.
"""

from __future__ import annotations

import os
import signal
import sys

from trainer.engine.mistake import StandsAlone
from trainer.protocol import stacks
from trainer.protocol.channel import AgentChannel
from trainer.protocol.ends import EXIT_AGAIN
from trainer.protocol.messages import Failed
from trainer.protocol.nursery import WORKER
from trainer.protocol.session import Program, current_session
from trainer.rundir.formats import UPDATE_IMAGE, FormatError
from trainer.rundir.usererror import Message, UserError, shown
from trainer.worker.exited import exited
from trainer.worker.failure import kind_in_elastic, kind_of
from trainer.worker.frames import told
from trainer.worker.process import die_with_parent, lead_group, name_process


def main() -> int:
    """Runs the worker.

    Returns its exit code: 0, 1 when the user's code raised, and EXIT_AGAIN when another
    process must take its place.
    """
    die_with_parent()
    name_process(WORKER)
    lead_group()
    stacks.offer()
    # A preemption's SIGTERM goes to the agent, which asks for a pause at a step boundary.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    session = current_session()
    if session.torchrun is not None:
        from trainer.worker import keeper

        return keeper.main(session)
    channel = AgentChannel.inherited()
    if channel is None:
        print("trainer.worker is started by an agent (swell-agent)", file=sys.stderr)
        return 2
    channel.beat()
    try:
        if session.code:
            from trainer.worker.script import enter_code

            enter_code(session.code.folder, session.code.installed)
        if session.program.task:
            train(session.program, channel)
        else:
            return run_script(session.program, channel)
    except StandsAlone as error:
        return start_again(error)
    except FormatError as error:  # of a checkpoint
        channel.send(Failed(str(Message(error.id, f"{error}: {UPDATE_IMAGE}"))))
        return 1
    except UserError as error:  # ours says what to do; where it was raised is of no use
        channel.send(Failed(shown(error)))
        return 1
    except SystemExit as ending:
        channel.send(Failed(exited(ending)))
        return 1
    except BaseException as error:  # not every library's is an Exception
        from trainer.engine.own_groups import lost, unalike

        # A peer is gone, as a collective of the program's own has found.
        own = type(error).__name__ == "HorovodInternalError" or lost(error)
        if own and not unalike(error):
            return start_again(error)
        # Who is at fault is decided elsewhere, by all that has happened.
        channel.send(Failed(told(error), kind_of(error)))
        return 1
    return 0


def train(program: Program, channel: AgentChannel) -> None:
    """Builds the program's task and trains it for as long as the channel lasts."""
    from trainer.loop import fit
    from trainer.task import Task
    from trainer.worker.loading import load_class

    set_threads()
    task = load_class(program.task)(**program.task_args)
    if not isinstance(task, Task):
        raise TypeError(f"{program.task} is a {type(task).__name__}, and not a trainer.Task")
    fit(task, channel)


def set_threads() -> None:
    """Lets torch compute with as many threads as OMP_NUM_THREADS says."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))


def run_script(program: Program, channel: AgentChannel) -> int:
    """Runs a script or module to its end, and waits until the run has ended, too."""
    from horovod.common.exceptions import HorovodInternalError

    from trainer import elastic
    from trainer.engine.own_groups import lost, unalike
    from trainer.worker.horovod_hooks import Hooks, NoWorker
    from trainer.worker.script import ScriptError, run_as_main

    set_threads()
    hooks = Hooks(channel)
    hooks.install()
    elastic.keep_states_with(hooks.keep)
    try:
        ending = run_as_main(program)
        loop = elastic.running()
        complete = loop is not None and loop.complete
        if channel.over:
            pass
        elif ending is not None and (ending.code or not (complete or hooks.used)):
            raise ending
        elif loop is not None and loop.complete:
            loop.done()
        elif hooks.used:
            hooks.end()
        elif loop is not None:
            raise ScriptError(
                "SW5012",
                f"{program} left its loop over elastic.steps() early, by a break or a return; to "
                "end it, call elastic.stop(), which ends it on all workers after the same step",
            )
        else:
            raise ScriptError(
                "SW5013",
                f"{program} ended, but it trained nothing together with other workers: it called "
                "neither hvd.init(), nor elastic.steps(), nor fit(); if torchrun starts it, write "
                "torchrun: in place of script:",
            )
    except (HorovodInternalError, NoWorker) as error:
        if unalike(error):
            raise
        # A peer was lost, and a plain script cannot go on without it: start afresh.
        return start_again(error)
    except (Exception, SystemExit) as error:
        refused = isinstance(error, UserError) and not isinstance(error, ScriptError)
        if not hooks.elastic or refused or lost(error):
            raise
        channel.send(Failed(_said(error), kind_in_elastic(error)))
        return 1
    return 0


def _said(error: Exception | SystemExit) -> str:
    if isinstance(error, SystemExit):
        return exited(error)
    return shown(error) if isinstance(error, UserError) else told(error)


def start_again(reason: BaseException) -> int:
    """Says why this process ends; returns the exit code that lets another take its place."""
    print(f"starting again: {reason}", file=sys.stderr, flush=True)
    return EXIT_AGAIN
