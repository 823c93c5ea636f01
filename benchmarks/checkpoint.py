"""What a checkpoint costs: the pause, the steps while it is written, and the bandwidth.

In one process, with one thread to train and the others' work beside it, for states of 20 MB,
200 MB and 2 GB. A full run takes about ten minutes, 12 GB of memory and 8 GB of disk.

- stall: how long ``save`` keeps the training thread; against a plain copy of the same tensors
  into memory that is there already, a blocking ``torch.save``, and
  ``torch.distributed.checkpoint.async_save``;
- slowdown: the median step while a checkpoint is being written, over that without one; also
  of one written through gcsfs. ``plain write`` is what no design can avoid on this machine: another
  process, of lower priority, writes as many bytes to the same place, and does nothing else;
- neighbour: why that is so: steps beside a process that computes, and one that copies memory;
- bandwidth: to write and to read it back, on the local disk and through gcsfs to the emulated
  Cloud Storage (a process on this machine, which needs a core, too), against a plain write and
  read of as many bytes, by the world's size. Ranks are threads here.

    python benchmarks/checkpoint.py [--quick] [--only CASE] [--runs N] [--json FILE]
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_saver import async_save

from launcher.emulator.storage.objects import Objects
from rows import Case, Options, Row, benchmark
from trainer.checkpoints import restore
from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.scribe import Scribe
from trainer.rundir.directory import RunDirectory

MB = 10**6
SIZES = {"20 MB": 20 * MB, "200 MB": 200 * MB, "2 GB": 2000 * MB}
QUICK = {"20 MB": 20 * MB}
WORLDS = (1, 2, 4)
TENSOR = 4 * MB  # bytes of one tensor of the state
MANY = 10**9  # bytes from which on fewer runs have to do


def state_of(size: int) -> dict[str, Any]:
    """A state of ``size`` bytes in tensors as large as those of a layer."""
    count = max(1, size // TENSOR)
    return {"model": {f"layer{n}": torch.randn(size // count // 4) for n in range(count)}}


def seconds_of(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Steps:
    """Steps of a small training, as long as those that a checkpoint may disturb."""

    def __init__(self) -> None:
        self._weight = torch.randn(512, 512)
        self._batch = torch.randn(512, 512)

    def step(self) -> float:
        """Takes one step. Returns its seconds."""
        began = time.perf_counter()
        for _ in range(8):
            self._weight = torch.tanh(self._batch @ self._weight)
        return time.perf_counter() - began

    def undisturbed(self, count: int) -> float:
        """The median seconds of ``count`` steps."""
        return statistics.median(self.step() for _ in range(count))

    def during(self, busy: Callable[[], bool]) -> float | None:
        """The median seconds of the steps while ``busy``; None if that was too short."""
        taken = []
        while busy():
            taken.append(self.step())
        return statistics.median(taken) if len(taken) >= 3 else None


# Another process that writes to a store when it is told to: its URL, and how many bytes.
WRITER = """
import os, sys
from trainer.rundir.store import Store
os.nice(10)
store, size = Store(sys.argv[1]), int(sys.argv[2])
data = os.urandom(min(size, 64 * 2**20))
store.write("ready", b"")
print(flush=True)
sys.stdin.readline()
for number in range(-(-size // len(data))):
    store.write(f"plain-{number}", data)
"""


def beside(steps: Steps, code: str, *arguments: str) -> float | None:
    """The median seconds of a step while another process runs, from when it is told to go on."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdin and child.stdout
        child.stdout.readline()
        child.stdin.write("\n")
        child.stdin.flush()
        return steps.during(lambda: child.poll() is None)


def apart(url: str) -> Checkpointer:
    """A checkpointer as a worker has it after its first checkpoint: another process writes."""
    scribe = Scribe(url)
    scribe.start()
    if not scribe.ready(timeout=60.0):
        raise RuntimeError("the process that writes checkpoints does not start")
    return Checkpointer(RunDirectory(url), Retention(1), lambda *a, **k: None, scribe=scribe)


@contextmanager
def alone() -> Iterator[None]:
    """The process group of one that torch.distributed.checkpoint wants."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def stall(size: int) -> Case:
    """The case of one size."""

    def measured(options: Options) -> Iterable[Row]:
        case = f"stall of {size // MB} MB"
        state = state_of(size)
        tensors = list(state["model"].values())
        targets = [torch.empty_like(one) for one in tensors]

        def copy() -> None:
            for target, tensor in zip(targets, tensors, strict=True):
                target.copy_(tensor)

        copy()  # the memory is there
        steps = Steps()
        stalls: dict[str, list[float | None]] = {}
        slower: dict[str, list[float | None]] = {}
        with (
            tempfile.TemporaryDirectory(prefix="swell-bench-") as folder,
            alone(),
            closing(apart(folder)) as checkpointer,
        ):
            runs = min(options.runs, 3) if size >= MANY else options.runs
            for turn in range(-2, runs):  # two to fill buffers, which are reused
                calm = steps.undisturbed(20)
                copied = seconds_of(copy)
                saved = seconds_of(partial(checkpointer.save, state, turn + 3))
                disturbed = steps.during(lambda: checkpointer.busy("alone"))
                checkpointer.flush()
                if turn == -2:
                    continue
                blocked = seconds_of(partial(torch.save, state, Path(folder) / "blocking.pt"))
                where = Path(folder) / f"dcp-{turn}"
                began = time.perf_counter()
                future: Any = async_save(state, checkpoint_id=str(where))
                begun = time.perf_counter() - began
                disturbed_too = steps.during(lambda future=future: not future.done())  # type: ignore[misc]
                future.result()
                shutil.rmtree(where)
                plain = Path(folder) / "plain"
                least = beside(steps, WRITER, str(plain), str(size))
                shutil.rmtree(plain)
                figures: dict[str, tuple[float, float | None]] = {
                    "plain copy": (copied, None),
                    "swell": (saved, disturbed),
                    "torch.save": (blocked, None),
                    "dcp.async_save": (begun, disturbed_too),
                }
                if turn >= 0:
                    slower.setdefault("plain write", []).append(least / calm if least else None)
                for system, (seconds, busy) in figures.items() if turn >= 0 else ():
                    stalls.setdefault(system, []).append(seconds)
                    slower.setdefault(system, []).append(busy / calm if busy else None)
        for system, values in stalls.items():
            yield Row.of(system, case, "stall", "s", values)
            pairs = zip(values, stalls["plain copy"], strict=True)
            ratios = [a / b for a, b in pairs if a is not None and b]
            yield Row.of(system, case, "stall over a plain copy", "x", ratios)
            if system in ("swell", "dcp.async_save"):
                yield Row.of(system, case, "step while writing", "x", slower[system])
        yield Row.of("plain write", case, "step while writing", "x", slower["plain write"])

    return measured


# What another process does for two seconds, at a lower priority.
NEIGHBOURS = {
    "computes": "while time.monotonic() < end: sum(range(1000))",
    "copies memory": "while time.monotonic() < end: there[:] = here",
}
NEIGHBOUR = """
import os, sys, time
os.nice(10)
here, there = bytearray(os.urandom(64 * 2**20)), bytearray(64 * 2**20)
print(flush=True)
sys.stdin.readline()
end = time.monotonic() + 2
"""


def beside_neighbours(options: Options) -> Iterable[Row]:
    """The case of steps while another process has the other core, and writes nothing."""
    steps = Steps()
    slower: dict[str, list[float | None]] = {name: [] for name in NEIGHBOURS}
    for _ in range(options.runs):
        for name, loop in NEIGHBOURS.items():
            calm = steps.undisturbed(20)
            busy = beside(steps, NEIGHBOUR + loop)
            slower[name].append(busy / calm if busy else None)
    for name, values in slower.items():
        yield Row.of(f"another {name}", "neighbour", "step beside it", "x", values)


def through_gcsfs(options: Options) -> Iterable[Row]:
    """The case of steps while a checkpoint goes to the emulated Cloud Storage."""
    size = 20 * MB if options.quick else 200 * MB
    steps, state = Steps(), state_of(size)
    slower: list[float | None] = []
    plain: list[float | None] = []
    with (
        tempfile.TemporaryDirectory(prefix="swell-bench-") as folder,
        cloud_storage(Path(folder)),
        closing(apart("gs://bench/run")) as checkpointer,
    ):
        for turn in range(-1, options.runs):
            calm = steps.undisturbed(20)
            checkpointer.save(state, turn + 2)
            busy = steps.during(lambda: checkpointer.busy("alone"))
            checkpointer.flush()
            least = beside(steps, WRITER, "gs://bench/plain", str(size))
            if turn >= 0:
                slower.append(busy / calm if busy else None)
                plain.append(least / calm if least else None)
    case = f"stall of {size // MB} MB, gs"
    yield Row.of("swell", case, "step while writing", "x", slower)
    yield Row.of("plain write", case, "step while writing", "x", plain)


@contextmanager
def cloud_storage(folder: Path) -> Iterator[None]:
    """The emulated Cloud Storage in a process of its own, found by gcsfs."""
    command = [sys.executable, "-m", "launcher.emulator", "--state", str(folder), "--until-eof"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout
    os.environ["STORAGE_EMULATOR_HOST"] = json.loads(child.stdout.readline())["storage"]
    os.environ["NO_GCE_CHECK"] = "true"
    Objects(folder / "buckets").create_bucket("bench")
    try:
        yield
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()
        del os.environ["STORAGE_EMULATOR_HOST"]


def bandwidth(kind: str) -> Case:
    """The case of one kind of store."""

    def measured(options: Options) -> Iterable[Row]:
        size = 20 * MB if options.quick else 200 * MB
        with tempfile.TemporaryDirectory(prefix="swell-bench-") as folder:
            if kind == "local":
                yield from _bandwidth(f"{folder}/run", kind, size, options)
            else:
                with cloud_storage(Path(folder)):
                    yield from _bandwidth("gs://bench/run", kind, size, options)

    return measured


def _bandwidth(url: str, kind: str, size: int, options: Options) -> Iterator[Row]:
    run_dir = RunDirectory(url)
    data = os.urandom(size)
    plain_write, plain_read = [], []
    for _ in range(options.runs):
        plain_write.append(seconds_of(lambda: run_dir.store.write("plain", data)))
        plain_read.append(seconds_of(lambda: run_dir.store.read("plain")))
    case = f"{kind} {size // MB} MB"
    yield Row.of("plain copy", case, "write", "MB/s", [size / MB / s for s in plain_write])
    yield Row.of("plain copy", case, "read", "MB/s", [size / MB / s for s in plain_read])
    state, step = state_of(size), 0
    for world in WORLDS:
        writes, reads, shared = [], [], []
        for _ in range(options.runs):
            step += 1
            ranks = [
                Checkpointer(RunDirectory(url), Retention(1), lambda *a, **k: None)
                for _ in range(world)
            ]
            save = partial(_save_all, ranks, state, step)
            writes.append(seconds_of(save))
            reads.append(seconds_of(partial(_load, url, restore.Alone())))
            shared.append(seconds_of(partial(_load_all, url, world)))
        system = f"swell, {world} writing"
        yield Row.of(system, case, "write", "MB/s", [size / MB / s for s in writes])
        yield Row.of(system, case, "read by one", "MB/s", [size / MB / s for s in reads])
        system = f"swell, {world} reading"
        yield Row.of(system, case, "read by all", "MB/s", [size / MB / s for s in shared])


def _save_all(ranks: list[Checkpointer], state: Any, step: int) -> None:
    """Has every rank write its share at once, and waits until it is a checkpoint."""

    def save(rank: int) -> bool:
        size = len(ranks)
        return ranks[rank].save(state, step, rank=rank, size=size, world=f"w{size}", wait=True)

    with ThreadPoolExecutor(len(ranks)) as pool:
        list(pool.map(save, range(len(ranks))))


class Exchange:
    """The collectives of a world whose ranks are threads: a restore.Exchange."""

    def __init__(self, rank: int, board: list[Any], barrier: Barrier) -> None:
        self.rank, self.size = rank, len(board)
        self._board, self._barrier = board, barrier

    def broadcast_bytes(self, data: bytes, root: int) -> bytes:
        return bytes(self._from(data, root))

    def broadcast(self, tensor: torch.Tensor, root: int) -> None:
        sent = self._from(tensor, root)
        if self.rank != root:
            tensor.copy_(sent)
        self._barrier.wait()

    def worst(self, code: int) -> int:
        self._board[self.rank] = code
        self._barrier.wait()
        worst = max(self._board)
        self._barrier.wait()
        return int(worst)

    def _from(self, mine: Any, root: int) -> Any:
        if self.rank == root:
            self._board[root] = mine
        self._barrier.wait()
        sent = self._board[root]
        self._barrier.wait()
        return sent


def _load(url: str, exchange: restore.Exchange) -> None:
    """Loads the newest checkpoint, as one rank of a world."""
    cpu = torch.device("cpu")
    found = restore.load_newest([RunDirectory(url)], lambda *a, **k: None, exchange, cpu)
    assert found is not None


def _load_all(url: str, world: int) -> None:
    """Has every rank read its share, and all exchange them."""
    board: list[Any] = [None] * world
    barrier = Barrier(world)

    def load(rank: int) -> None:
        _load(url, Exchange(rank, board, barrier))

    with ThreadPoolExecutor(world) as pool:
        list(pool.map(load, range(world)))


def main() -> int:
    """Runs the benchmark."""
    torch.set_num_threads(1)
    sizes = QUICK if "--quick" in sys.argv else SIZES
    cases = {f"stall {name}": stall(size) for name, size in sizes.items()}
    cases["stall gs"] = through_gcsfs
    cases["neighbour"] = beside_neighbours
    cases |= {f"bandwidth {kind}": bandwidth(kind) for kind in ("local", "gs")}
    return benchmark(__doc__, cases)


if __name__ == "__main__":
    sys.exit(main())
