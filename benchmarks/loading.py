"""Batches that are there before they are needed, and an order of the data that costs nothing.

``waits``: samples of 5 ms, in batches of 32, on a device that needs 10 ms for a step: loaders are
what takes long. ``hidden``: the device needs 60 ms, so that 4 loaders are quick enough. In both,
``fit`` and a plain loop over torch's DataLoader, each with as many processes, run in turn, and a
ratio is taken between neighbours. Samples and device wait, and do not compute, so that the figures
depend little on what else the machine does. ``data wait`` is the part of a step's time: as
``fit`` says it, and as a clock outside has it.

``order``: the first step of a new world in the middle of an epoch of 10^8 samples, as it was with a
whole permutation, and as it is; ``batch`` is a later step's order.

``held``: what the loader processes of 10^6 small samples, a list of pairs of numbers, have in
memory when they have made an epoch's batches, all of them together, with what forks them: a page
that some share counts in parts. In a plain loop they are forked of the process that trains.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rows import Case, Options, Row, benchmark

ROOT = Path(__file__).parents[1]
JOB = ROOT / "benchmarks" / "jobs" / "loading.py"
WORKERS = 4
STEPS = 150
DEVICE = {"waits": 0.01, "hidden": 0.06}
SAMPLES, BATCH = 10**8, 4096
LATER = 100  # steps
SMALL = 10**6  # samples


def told(system: str, workers: int, device: float, steps: int) -> dict[str, float]:
    """What the job says of one run."""
    command = [sys.executable, str(JOB), system, str(workers), str(device), str(steps)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def loaded(case: str, options: Options) -> Iterator[Row]:
    """``fit`` and a plain loop, in turn; and ``fit`` without loaders once."""
    device, steps = DEVICE[case], 30 if options.quick else STEPS
    pairs = [
        (told("plain", WORKERS, device, steps), told("fit", WORKERS, device, steps))
        for _ in range(options.runs)
    ]
    alone = told("fit", 0, device, 20)
    for system, of in (("plain loop", 0), ("fit", 1)):
        yield Row.of(system, case, "step", "ms", [1000 * one[of]["step"] for one in pairs])
    yield Row.of("fit, no loaders", case, "step", "ms", [1000 * alone["step"]])
    ratios = [plain["step"] / fit["step"] for plain, fit in pairs]
    yield Row.of("fit", case, "samples/s, of the plain loop's", "x", ratios)
    for name, metric in (("said", "data wait"), ("seen", "data wait, seen")):
        shares = [100 * fit[name] / fit["step"] for _, fit in pairs]
        yield Row.of("fit", case, metric, "%", shares)


def order(options: Options) -> Iterator[Row]:
    """Each in a process of its own, which says what it needed."""
    versions = {"whole permutation": 1, "by place": 2}
    for system, version in versions.items():
        command = [sys.executable, __file__, "--order", str(version)]
        runs = []
        for _ in range(options.runs):
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(ended.stdout))
        units = {"first step": "ms", "batch": "µs", "memory": "MiB"}
        for metric, unit in units.items():
            yield Row.of(system, "order", metric, unit, [one[metric] for one in runs])


def ordered(version: int) -> None:
    """Prints what the order of the data costs a worker of a new world."""
    from trainer.engine.data import Order
    from trainer.engine.dealing import Dealer

    Dealer(Order(1000, 10, 0)).deal(0, 0, [1.0], False)  # what is imported late
    before = _most()
    dealer, half = Dealer(Order(SAMPLES, BATCH, 0)), SAMPLES // BATCH // 2
    began = time.perf_counter()
    dealer.deal(half, 0, [1.0] * 8, False, version)
    first = time.perf_counter() - began
    began = time.perf_counter()
    for step in range(half + 1, half + 1 + LATER):
        dealer.deal(step, 0, [1.0] * 8, False, version)
    later = (time.perf_counter() - began) / LATER
    memory = (_most() - before) / 2**20
    print(json.dumps({"first step": 1e3 * first, "batch": 1e6 * later, "memory": memory}))


def held(options: Options) -> Iterator[Row]:
    """Each in a process of its own."""
    for system in ("plain loop", "fit"):
        command = [sys.executable, __file__, "--held", system]
        runs = []
        for _ in range(options.runs):
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(ended.stdout))
        yield Row.of(system, "held", "memory of loaders", "MiB", runs)


def hold(system: str) -> None:
    """Prints what loaders have in memory, in MiB, when they have made an epoch's batches."""
    import psutil
    import torch
    from torch.utils.data import DataLoader, default_collate

    torch.set_num_threads(1)
    data = [(number, number / SMALL) for number in range(SMALL)]
    last = SMALL // BATCH - 2 * WORKERS

    def told() -> None:
        pages = sum(one.memory_full_info().pss for one in psutil.Process().children(True))
        print(json.dumps(pages / 2**20), flush=True)

    if system == "plain loop":
        loader: Any = DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS)  # type: ignore[arg-type]
        for number, _ in enumerate(loader):
            if number == last:
                told()
        return
    from trainer.engine.data import Order
    from trainer.engine.item import TRAINING, Item, Maker
    from trainer.engine.plan import Plan
    from trainer.loaders.pool import Loaders, Wanted
    from trainer.training.fetch import Collated

    order, cpu = Order(SMALL, BATCH, 0), torch.device("cpu")
    pool: Loaders[Any] = Loaders(Maker({TRAINING: Collated(data, default_collate)}), WORKERS)

    def wanted(step: int) -> Wanted[Any]:
        part = order.take(0, *order.bounds(step))
        plan = Plan(step + 1, last, 0, part, 0, BATCH, False, 0, 1, cpu)
        item = Item(plan, 0, watched=False, seed=0)
        return Wanted(item.key, item, part.tolist())

    coming = deque(map(wanted, range(2 * WORKERS)))
    for step in range(last + 1):
        pool.want(coming)
        pool.get(coming.popleft())
        coming.append(wanted(step + 2 * WORKERS))
    told()
    pool.close()


def _most() -> int:
    """Bytes that this process has had in memory at most."""
    status = Path("/proc/self/status").read_text()
    line = next(one for one in status.splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


CASES: dict[str, Case] = {case: partial(loaded, case) for case in DEVICE} | {
    "order": order,
    "held": held,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--order"]:
        sys.path.insert(0, str(ROOT))
        ordered(int(sys.argv[2]))
    elif sys.argv[1:2] == ["--held"]:
        sys.path.insert(0, str(ROOT))
        hold(sys.argv[2])
    else:
        sys.exit(benchmark(__doc__, CASES, runs=3))
