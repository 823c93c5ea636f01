"""Loader processes: what is wanted is made, whatever becomes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.trainer.loaders.made import Batches, Draws, Squares, Unready
from trainer.loaders.pool import Loaders, LoadersLost, NoLoaders, Wanted
from trainer.loaders.sample import SampleError

PATIENCE = 120.0  # seconds; only a test that fails waits so long
Pool = Loaders[int]
Start = Callable[..., Pool]


@pytest.fixture
def start() -> Iterator[Start]:
    pools: list[Pool] = []

    def begin(make: Any, count: int = 2) -> Pool:
        pools.append(Loaders(make, count))
        return pools[-1]

    yield begin
    for pool in pools:
        pool.close()


def item(number: int, size: int = 3) -> Wanted[int]:
    indices = list(range(number * size, (number + 1) * size))
    return Wanted(number, indices, indices)


def until(state: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not state():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def squares(number: int) -> list[int]:
    return [index * index for index in item(number).indices]


def test_each_is_made_once_by_another_process_in_any_order(start: Start) -> None:
    pool = start(Batches(), 3)
    window = [item(number) for number in range(9)]
    pool.want(window)
    makers = set()
    for number in (4, 0, 8, 1, 2, 3, 5, 6, 7):
        batch, maker = pool.get(window[number])
        assert batch.tolist() == squares(number)
        makers.add(maker)
    assert os.getpid() not in makers and makers <= {*pool.pids}


def test_the_window_moves_on_and_what_is_made_is_kept(start: Start, tmp_path: Path) -> None:
    pool = start(Batches(gate=tmp_path))
    pool.want([item(number) for number in range(6)])  # each loader holds two of them
    pool.want([item(number) for number in (2, 1, 9)])
    (tmp_path / "open").touch()
    assert [pool.get(item(number))[0].tolist() for number in (9, 1, 2)] == [
        squares(number) for number in (9, 1, 2)
    ]
    pool.want([item(0)])  # made, and thrown away, and made again
    assert pool.get(item(0))[0].tolist() == squares(0)


def test_a_loader_that_is_killed_loses_nothing(start: Start, tmp_path: Path) -> None:
    pool = start(Batches(gate=tmp_path))
    window = [item(number) for number in range(5)]
    pool.want(window)
    until(lambda: len(pool.pids) == 2)
    os.kill(pool.pids[0], signal.SIGKILL)
    (tmp_path / "open").touch()
    assert [pool.get(one)[0].tolist() for one in window] == [squares(n) for n in range(5)]
    until(lambda: len(pool.pids) == 2)


def test_when_all_of_them_are_killed_there_are_others(start: Start, tmp_path: Path) -> None:
    pool = start(Batches(gate=tmp_path))
    window = [item(number) for number in range(5)]
    pool.want(window)
    until(lambda: len(pool.pids) == 2)
    assert pool._process is not None
    os.kill(pool._process.pid, signal.SIGKILL)  # what forks them, and then each of them
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    (tmp_path / "open").touch()
    assert [pool.get(one)[0].tolist() for one in window] == [squares(n) for n in range(5)]


def test_what_has_killed_two_loaders_may_succeed(start: Start, tmp_path: Path) -> None:
    pool = start(Batches(kills=4, times=2, notes=tmp_path))
    pool.want([item(0), item(1)])
    assert [pool.get(item(number))[0].tolist() for number in (0, 1)] == [squares(0), squares(1)]


def test_what_kills_three_loaders_is_named(start: Start, tmp_path: Path) -> None:
    pool = start(Batches(kills=4, times=9, notes=tmp_path), 1)
    pool.want([item(1), item(0)])
    said = (
        "3 loader processes were lost (the last one was killed by SIGKILL) while they made samples "
        "3, 4, 5; perhaps memory is short: fewer workers need less, and the kernel's log tells who "
        "was killed for it"
    )
    with pytest.raises(LoadersLost) as raised:
        pool.get(item(1))
    assert str(raised.value) == said
    assert len(list(tmp_path.iterdir())) == 3


def test_a_sample_that_raises_is_named(start: Start) -> None:
    pool = start(Batches(Squares(broken=4)))
    pool.want([item(0), item(1), item(2)])
    assert pool.get(item(0))[0].tolist() == squares(0)
    with pytest.raises(SampleError) as raised:
        pool.get(item(1))
    assert str(raised.value) == "sample 4 of the data set: ValueError: 4 is no picture"
    cause = raised.value.__cause__
    assert isinstance(cause, ValueError) and "in __getitem__" in str(cause.__cause__)
    assert pool.get(item(2))[0].tolist() == squares(2), "the loader goes on"


def test_a_batch_that_raises_is_named_by_its_samples(start: Start) -> None:
    pool = start(len, 1)
    pool.want([Wanted(0, 5, range(20))])
    with pytest.raises(SampleError) as raised:
        pool.get(Wanted(0, 5, range(20)))
    assert str(raised.value) == (
        "samples 0, 1, 2, 3, 4, 5, 6, 7 and 12 more of the data set: TypeError: object of type "
        "'int' has no len()"
    )


def test_who_waits_can_be_called_off(start: Start, tmp_path: Path) -> None:
    pool = start(Batches(gate=tmp_path))
    pool.want([item(0)])

    def lost() -> None:
        raise InterruptedError("a worker was lost")

    with pytest.raises(InterruptedError):
        pool.get(item(0), lost)
    (tmp_path / "open").touch()
    assert pool.get(item(0))[0].tolist() == squares(0)


def test_what_cannot_be_pickled_is_said_before_anything_starts() -> None:
    with pytest.raises(NoLoaders, match=r"cannot be given to loader processes .*workers=0$"):
        Loaders(lambda request: request, 1)


UNGUARDED = """
from tests.trainer.loaders.made import Batches
from trainer.loaders.pool import Loaders, Wanted
class Own(Batches): pass
pool = Loaders(Own(), 1)
pool.want([Wanted(0, [1], [1])])
pool.get(Wanted(0, [1], [1]))
"""


def test_a_program_that_trains_when_it_is_imported_is_told_so(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(UNGUARDED)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, env=env)
    assert ended.returncode == 1
    assert 'put what trains under `if __name__ == "__main__":`' in ended.stderr


def test_what_cannot_be_taken_over_is_said(start: Start) -> None:
    pool = start(Unready())
    pool.want([item(0)])
    with pytest.raises(NoLoaders, match="taken over by loader processes: ImportError: no module"):
        pool.get(item(0))


def test_loaders_do_not_share_random_numbers(start: Start) -> None:
    pool = start(Draws(), 2)
    window = [Wanted(number, number, [number]) for number in range(8)]
    pool.want(window)
    drawn = [pool.get(one) for one in window]
    assert len({python for python, _ in drawn}) == len({torchs for _, torchs in drawn}) == 8


def test_a_process_with_threads_can_have_loaders(start: Start) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        torch.rand(1000, 1000) @ torch.rand(1000, 1000)
        pool = start(Batches(), 1)
        pool.want([item(0)])
        assert pool.get(item(0))[0].tolist() == squares(0)
    finally:
        stop.set()
        thread.join()


PROGRAM = """
import os, signal
from tests.trainer.loaders.made import Batches
from trainer.loaders.pool import Loaders, Wanted
pool = Loaders(Batches(), 2)
pool.want([Wanted(0, [1], [1])])
pool.get(Wanted(0, [1], [1]))
print(pool._process.pid, *pool.pids, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_none_is_left_when_the_one_that_trains_is_killed() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    pids = [int(one) for one in ended.stdout.split()]
    assert len(pids) == 3
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
