"""Loading alone: a data set in shards, read once by one process, from a disk and from a bucket.

The samples are those of all systems: bytes, of 20 kB or of 1 kB, and a number. Swell and MosaicML
Streaming read the same shards, WebDataset a tar of the same samples for each; a plain read takes
the bytes of each shard, and makes no samples of them. Each epoch is shuffled as each of them does
it by default (WebDataset: shards, and a buffer of 1,000 samples). Times begin when everything is
imported, and have in them what opens the data set. The bucket is the emulated Cloud
Storage, on this machine; what was read from a disk is not in the page cache before. Systems run in
turn, in processes of their own, and ratios are taken within one turn. MosaicML Streaming and
WebDataset are measured where they are installed (`pip install mosaicml-streaming webdataset`).

``order``: the first step of a new world in the middle of an epoch of 10^8 samples, in 2,000 shards
and in 100,000; ``batch`` is a later step's order. Both are processor time.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from launcher.emulator.listener import Listener
from launcher.emulator.storage.objects import Objects
from launcher.emulator.storage.server import Storage
from rows import Case, Options, Row, benchmark
from trainer.data import write_shards

ROOT = Path(__file__).parents[1]
JOB = ROOT / "benchmarks" / "jobs" / "shards.py"
SHARD = 2**23  # bytes
SIZES = {"20 kB": (20_000, 10_000), "1 kB": (1_000, 100_000)}  # bytes, and how many
ORDERED, BATCH, LATER = 10**8, 4096, 100  # samples, those of a step, steps
NEEDED = {"MosaicML": "streaming", "WebDataset": "webdataset"}
SYSTEMS = ("plain read", "Swell", *NEEDED)


def samples(size: int, count: int) -> Iterator[dict[str, object]]:
    """Samples of random bytes."""
    chance = np.random.default_rng(0)
    for number in range(count):
        yield {"data": chance.bytes(size), "number": number}


def written(folder: Path, size: int, count: int) -> None:
    """Writes the samples as shards, and as tars of as many samples."""
    write_shards(samples(size, count), folder / "mds", shard_size=SHARD)
    index = json.loads((folder / "mds" / "index.json").read_text())
    (folder / "tar").mkdir()
    rows = samples(size, count)
    for place, shard in enumerate(index["shards"]):
        with tarfile.open(folder / "tar" / f"{place:05}.tar", "w") as archive:
            for _ in range(shard["samples"]):
                row = next(rows)
                for name, data in (("data", row["data"]), ("cls", str(row["number"]).encode())):
                    assert isinstance(data, bytes)
                    entry = tarfile.TarInfo(f"{row['number']:09}.{name}")
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))


def forget(folder: Path) -> None:
    """Has the kernel forget what is in files."""
    for path in folder.rglob("*.*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


@contextmanager
def bucket(folder: Path) -> Iterator[Objects]:
    """The emulated Cloud Storage, in a thread; processes that are started find it."""
    objects = Objects(folder)
    objects.create_bucket("bucket")
    ready, stopping = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        listener = Listener(Storage(objects).app(), "127.0.0.1")
        listener.start()
        os.environ["STORAGE_EMULATOR_HOST"] = f"http://{listener.authority}"
        ready.set()
        await stopping.wait()
        await listener.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield objects
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        os.environ.pop("STORAGE_EMULATOR_HOST")


def told(system: str, url: str) -> dict[str, float]:
    """What the job says of one epoch."""
    with tempfile.TemporaryDirectory(prefix="swell-shards-") as cache:
        command = [sys.executable, str(JOB), system, url, cache]
        # None looks for credentials.
        env = {**os.environ, "FSSPEC_GS_TOKEN": "anon", "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )
    if ended.returncode:
        raise RuntimeError(f"{system} has ended with {ended.returncode}")
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def read(where: str, size: str, options: Options) -> Iterator[Row]:
    """All systems, in turn."""
    wide, count = SIZES[size]
    count = count // 10 if options.quick else count
    systems = [one for one in SYSTEMS if one not in NEEDED or _installed(NEEDED[one])]
    for one in set(SYSTEMS) - set(systems):
        print(f"{one} is not installed, and is left out", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="swell-shards-") as name:
        folder = Path(name)
        written(folder, wide, count)
        if where == "disk":
            turns = [
                {one: told(one, _fresh(folder, _kind(one))) for one in systems}
                for _ in range(options.runs)
            ]
        else:
            with bucket(folder / "bucket") as objects:
                for path in [*folder.glob("mds/*"), *folder.glob("tar/*")]:
                    _put(objects, f"{path.parent.name}/{path.name}", path)
                turns = [
                    {one: told(one, f"gs://bucket/{_kind(one)}") for one in systems}
                    for _ in range(options.runs)
                ]
    case = f"{where}, {size}"
    for one in systems:
        runs = [turn[one] for turn in turns]
        yield Row.of(one, case, "read", "MB/s", [it["bytes"] / it["seconds"] / 1e6 for it in runs])
        if one != "plain read":
            each = [it["samples"] / it["seconds"] for it in runs]
            yield Row.of(one, case, "samples/s", "", each)
            spent = [1e6 * it["processor"] / it["samples"] for it in runs]
            yield Row.of(one, case, "processor, each sample", "µs", spent)
            first = [1000 * it["first"] for it in runs]
            yield Row.of(one, case, "the first sample", "ms", first)
        if one in NEEDED:
            ratios = [turn[one]["seconds"] / turn["Swell"]["seconds"] for turn in turns]
            yield Row.of("Swell", case, f"samples/s, of {one}'s", "x", ratios)
            ratios = [turn[one]["processor"] / turn["Swell"]["processor"] for turn in turns]
            yield Row.of("Swell", case, f"samples per processor second, of {one}'s", "x", ratios)


def order(options: Options) -> Iterator[Row]:
    """Each in a process of its own, which says what it needed."""
    for count in (2_000, 100_000):
        runs = []
        for _ in range(options.runs):
            command = [sys.executable, __file__, "--order", str(count)]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(ended.stdout))
        for metric, unit in {"first step": "ms", "batch": "µs", "memory": "MiB"}.items():
            system = f"{count:,} shards"
            yield Row.of(system, "order", metric, unit, [one[metric] for one in runs])


def ordered(count: int) -> None:
    """Prints what the order of so many shards costs a worker of a new world."""
    from trainer.engine.data import Order
    from trainer.engine.dealing import Dealer
    from trainer.engine.shard_order import ShardOrder

    small = Order(1000, 10, 0, shards=ShardOrder([100] * 10))
    Dealer(small).deal(0, 0, [1.0], False)  # what is imported late
    shards = ShardOrder([ORDERED // count] * count)
    before = _most()
    dealer, half = Dealer(Order(ORDERED, BATCH, 0, shards=shards)), ORDERED // BATCH // 2
    began = time.process_time()
    dealer.deal(half, 0, [1.0] * 8, False)
    first = time.process_time() - began
    began = time.process_time()
    for step in range(half + 1, half + 1 + LATER):
        dealer.deal(step, 0, [1.0] * 8, False)
    later = (time.process_time() - began) / LATER
    memory = (_most() - before) / 2**20
    print(json.dumps({"first step": 1e3 * first, "batch": 1e6 * later, "memory": memory}))


def _most() -> int:
    """Bytes that this process has had in memory at most."""
    status = Path("/proc/self/status").read_text()
    line = next(one for one in status.splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _kind(system: str) -> str:
    return "tar" if system == "WebDataset" else "mds"


def _fresh(folder: Path, kind: str) -> str:
    forget(folder / kind)
    return str(folder / kind)


def _put(objects: Objects, name: str, path: Path) -> None:
    with objects.receiving() as receiver, path.open("rb") as file:
        shutil.copyfileobj(file, receiver)
        objects.put("bucket", name, receiver.content(), {})


CASES: dict[str, Case] = {
    f"{where}, {size}": partial(read, where, size) for where in ("disk", "bucket") for size in SIZES
}
CASES["order"] = order

if __name__ == "__main__":
    if sys.argv[1:2] == ["--order"]:
        ordered(int(sys.argv[2]))
        sys.exit()
    sys.exit(benchmark(__doc__, CASES, runs=3))
