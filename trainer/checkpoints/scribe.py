"""Another process that writes shards, so that they are not written under training's own lock.

A client of an object store is a Python program: as threads of the process that trains, it takes
the interpreter's lock from it (benchmarks/checkpoint.py measured steps 1.4 times as long). The
process has a socket for its standard input. When it is ready it says so. A request is a line of
JSON, with a file descriptor of the memory (see trainer.checkpoints.shared_memory); so is the
answer::

    {"ready": true}
    {"folder": "checkpoints/step-000001200", "total": 8, "parts": [[3, 0, 99], …]}
    {"shards": [{"name", "bytes", "xxh3"}, …], "seconds": 0.4}    or    {"error": "gs://…: …"}

It ends when the other end of the socket is closed, or the rank is dead though a child of it holds
that end, whatever it is doing: what a dead rank has not written is of no use.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from trainer.checkpoints.shardfile import Part, ShardFile, step_aside, write_shards
from trainer.rundir.store import Store

ROOT = Path(__file__).parents[2]
CHUNK = 64 * 2**10  # bytes of a line that are taken at a time
GRACE = 1.0  # seconds to notice that nobody asks for anything any more


class Scribe:
    """Starts the process, and again when it has died.

    For one thread at a time.

    Args:
        url: of the store that it writes to.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._ready = False

    def start(self) -> None:
        """Starts the process unless it is there. It takes a second or more to be ready."""
        if self._process is not None and self._process.poll() is None:
            return
        self._ended()
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer.checkpoints.scribe", self._url],
                stdin=theirs.fileno(),
                cwd=ROOT,  # not where a module of the user may have the name of one of ours
            )

    def ready(self, timeout: float = 0.0) -> bool:
        """Whether it can write; waits up to ``timeout`` seconds for that."""
        if self._process is None or self._line is None or self._process.poll() is not None:
            return False
        if not self._ready:
            poller = select.poll()
            poller.register(self._line, select.POLLIN)
            if poller.poll(1000 * timeout):
                greeting, _ = _receive(self._line)
                self._ready = greeting is not None
        return self._ready

    def write(
        self, folder: str, total: int, fd: int, parts: Sequence[Part]
    ) -> tuple[list[ShardFile], float]:
        """Has shards written; see ``write_shards``. Returns them, and the seconds that it took.

        Only when it is ready. Raises OSError, also when the process dies.
        """
        assert self._ready and self._line is not None
        request = {
            "folder": folder,
            "total": total,
            "parts": [[one.number, one.offset, one.size] for one in parts],
        }
        try:
            _send(self._line, request, fd)
            answer, _ = _receive(self._line)
        except OSError:
            answer = None
        if answer is None:
            code = self._ended()
            raise OSError(f"the process that writes checkpoints has ended with exit code {code}")
        if "error" in answer:
            raise OSError(answer["error"])
        return [ShardFile.from_json(one) for one in answer["shards"]], float(answer["seconds"])

    def close(self) -> None:
        """Ends the process."""
        self._ended()

    def _ended(self) -> int | None:
        """The exit code of the process, which is ended if need be; None if there was none."""
        if self._line is not None:
            self._line.close()
            self._line = None
        process, self._process, self._ready = self._process, None, False
        if process is None:
            return None
        try:
            return process.wait(GRACE)
        except subprocess.TimeoutExpired:  # stopped, or its disk does not answer
            process.kill()
            return process.wait()


def _send(line: socket.socket, message: dict[str, Any], fd: int | None = None) -> None:
    data = json.dumps(message).encode() + b"\n"
    sent = 0 if fd is None else socket.send_fds(line, [data], [fd])
    line.sendall(data[sent:])


def _receive(line: socket.socket) -> tuple[dict[str, Any] | None, int | None]:
    """The next message, and the file descriptor that came with it; (None, None) at the end."""
    data, fd = b"", None
    while not data.endswith(b"\n"):
        more, fds, _, _ = socket.recv_fds(line, CHUNK, 1)
        if not more:
            return None, None
        data += more
        fd = fds[0] if fds else fd
    message: dict[str, Any] = json.loads(data)
    return message, fd


def _answer(store: Store, request: dict[str, Any], fd: int) -> dict[str, Any]:
    began = time.monotonic()
    try:
        with (
            os.fdopen(fd, "rb"),
            mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory,
            memoryview(memory) as view,
        ):
            parts = [Part(*one) for one in request["parts"]]
            shards = write_shards(store, request["folder"], request["total"], view, parts)
    except Exception as error:  # whatever it is: the rank must hear of it
        return {"error": str(error) or repr(error)}
    return {"shards": [vars(one) for one in shards], "seconds": time.monotonic() - began}


def _end_with(rank: int) -> None:
    try:
        select.select([os.pidfd_open(rank)], [], [])
    except ProcessLookupError:
        pass  # it is dead already
    except OSError:  # Linux before 5.3: the socket has to do
        return
    os._exit(0)


def main() -> None:
    """Writes for the process at the other end of standard input, until that closes it."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # who trains decides, and may need this then
        signal.signal(ending, signal.SIG_IGN)
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    step_aside()  # the threads that follow have it from this one
    store = Store(sys.argv[1])
    with socket.socket(fileno=os.dup(0)) as line:

        def send(message: dict[str, Any]) -> None:
            with suppress(BrokenPipeError):  # nobody waits for it any more
                _send(line, message)

        def work(request: dict[str, Any], fd: int) -> None:
            send(_answer(store, request, fd))

        send({"ready": True})
        while True:
            request, fd = _receive(line)
            if request is None or fd is None:
                os._exit(0)  # without waiting for what is being written
            Thread(target=work, args=(request, fd), daemon=True).start()


if __name__ == "__main__":
    main()
