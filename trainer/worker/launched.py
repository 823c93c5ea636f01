"""The process of a torchrun script: what `python -u script.py` would be, as far as it can tell.

It is forked of its keeper, and so has imported by then what the keeper has; where a keeper cannot
be forked, it is started as `python -m trainer.worker.launched`.

A traceback goes to standard error as Python would show it, without the frames of whoever runs the
script, and into the file that TORCHELASTIC_ERROR_FILE names, unless the script has written that
itself (torch.distributed.elastic.multiprocessing.errors.record): its keeper reads it there.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from trainer.protocol import stacks
from trainer.protocol.session import Program, current_session
from trainer.rundir.names import ENV_OUTPUT_DIR
from trainer.worker import process_group
from trainer.worker.frames import told
from trainer.worker.process import die_with_parent
from trainer.worker.script import enter_code, run_program

ENV_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
NO_SCRIPT = 2  # Python's exit code where there is no such file


def run(program: Program) -> int:
    """Runs the program to its end. Returns the exit code; SystemExit is the script's own."""
    _unbuffer()
    stacks.offer()
    _settle_libraries()
    process_group.watch(os.environ)
    program = replace(program, args=[_with_folder(one) for one in program.args])
    if program.script and not Path(program.script).is_file():
        text = f"can't open file '{program.script}': there is no such file"
        print(f"{sys.executable}: {text}", file=sys.stderr)
        _note("FileNotFoundError", text)
        return NO_SCRIPT
    try:
        run_program(program)
    except SystemExit as ending:
        if ending.code:  # a torchrun would not know where it was
            _note(f"SystemExit: {ending.code}", told(ending))
        raise
    except BaseException as error:
        _show(error)
        if isinstance(error, KeyboardInterrupt):
            sys.stdout.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    return 0


def _with_folder(arg: str) -> str:
    """An argument, with the output folder of this VM where it is named, as a shell would do it."""
    folder = os.environ.get(ENV_OUTPUT_DIR)
    return arg.replace(f"${ENV_OUTPUT_DIR}", folder) if folder else arg


def _unbuffer() -> None:
    """As with -u: nothing that was written is lost, however the process ends."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        if old is None:
            continue
        old.flush()
        stream = io.TextIOWrapper(
            io.FileIO(descriptor, "w", closefd=False),
            encoding=old.encoding,
            errors=old.errors,
            write_through=True,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _settle_libraries() -> None:
    """What a new process would find out, and one that was forked has from before."""
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()  # random does so by itself; torch begins alike everywhere
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if (torch := sys.modules.get("torch")) is not None and threads.isdecimal():
        torch.set_num_threads(int(threads))


def _show(error: BaseException) -> None:
    _note(f"{type(error).__name__}: {error}", told(error))
    sys.excepthook(type(error), error, error.__traceback__)


def _note(what: str, text: str) -> None:
    """Leaves word of an error, in the form that torch's `record` has for it."""
    path = os.environ.get(ENV_ERROR_FILE)
    if not path or os.path.exists(path):
        return
    extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": what, "extraInfo": extra}}, file)
    except OSError:
        return  # standard error has it


def main() -> int:
    """The process, where it was started and not forked."""
    die_with_parent()
    session = current_session()
    if session.code:
        enter_code(session.code.folder, session.code.installed)
    return run(session.program)


if __name__ == "__main__":
    sys.exit(main())
