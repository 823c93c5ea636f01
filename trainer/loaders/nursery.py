"""The nursery of loaders: `python -m trainer.loaders.nursery FD`, as ``trainer.loaders.pool`` does.

It is a fresh process, with no thread and no GPU: one that trains, and has both, could not be forked
safely. It takes over what batches are made by, once, and then forks a loader whenever it is asked:
each is there in a hundredth of a second, and all of them share the memory of the data set. It ends
when the process that trains does, and so do the loaders.

It says None when it is ready, or sends the Trouble that it has, and is asked:

    fork     (with the loader's socket)     nothing is answered
    ended    (the number of a loader)       how it has ended: as os.waitpid says it
"""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing.spawn
import os
import random
import signal
import socket
import struct
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from trainer.loaders.parcel import receive, send
from trainer.loaders.sample import Trouble

FORK, ENDED = b"fork", b"ended"
NUMBER = struct.Struct("=Q")
INSIDE = "SWELL_LOADERS"  # set in the environment of the nursery
# A loader computes with one thread, and no library starts others when it is imported.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ENVIRONMENT = {INSIDE: "1", **dict.fromkeys(THREADS, "1")}
PR_SET_PDEATHSIG = 1  # prctl(2)

log = logging.getLogger("swell.loaders")


def surroundings(module: str) -> dict[str, Any]:
    """What this process finds its modules by, for another one.

    Args:
        module: one that may have been loaded from a file, under a name of its own.
    """
    found = multiprocessing.spawn.get_preparation_data("loader")
    for name in ("authkey", "start_method", "log_to_stderr", "log_level"):
        found.pop(name, None)
    file = getattr(sys.modules.get(module), "__file__", None)
    return {"prepare": found, "module": module, "file": file if module != "__main__" else None}


def main(fd: int) -> None:
    """Serves until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever is to end ends the one that trains
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line = socket.socket(fileno=fd)
    try:
        _enter(**receive(line))
        make = receive(line)
    except EOFError:
        return
    except BaseException as error:
        send(line, Trouble.of(error))
        return
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        log.warning(
            "loaders are forked of a process with %d threads, and may hang: modules of the program "
            "start them when they are imported; start threads where a sample is read",
            threads,
        )
    gc.freeze()  # a collection in a loader would write to, and so copy, whatever the data holds
    try:
        send(line, None)
    except OSError:  # whoever trains has died meanwhile
        return
    children: list[int] = []
    while True:
        message, fds, _, _ = socket.recv_fds(line, 64, 1)
        if not message:
            return
        if message == FORK:
            theirs = socket.socket(fileno=fds[0])
            if not (child := os.fork()):
                line.close()
                _serve(theirs, make)
            theirs.close()
            children.append(child)
        else:
            (number,) = NUMBER.unpack(message.removeprefix(ENDED))
            _, status = os.waitpid(children[number], 0)
            line.send(NUMBER.pack(status))


def _enter(prepare: dict[str, Any], module: str, file: str | None) -> None:
    """Finds modules where the process that trains finds them."""
    multiprocessing.spawn.prepare(prepare)
    if file is None or module in sys.modules:
        return
    spec = spec_from_file_location(module, file)
    if spec is not None and spec.loader is not None:
        sys.modules[module] = loaded = module_from_spec(spec)
        spec.loader.exec_module(loaded)


def _serve(line: socket.socket, make: Callable[[Any], Any]) -> None:
    """Makes what is asked for, one after another. Does not return."""
    import numpy
    import torch

    # Whatever it is doing: what is made for the dead is of no use.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(1)
    # Who is forked has the random numbers of all others, until something seeds them.
    random.seed()
    numpy.random.seed()
    torch.seed()
    code = 1
    try:
        while True:
            request = receive(line)
            try:
                send(line, make(request))
            except ConnectionError:
                raise EOFError from None
            except Exception as error:
                send(line, Trouble.of(error))
    except (EOFError, ConnectionError):
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
