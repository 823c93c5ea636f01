"""Worlds whose ranks are threads, and a state that tells who wrote it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.restore import load_newest
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.shards import Sizes
from trainer.rundir.directory import RunDirectory

T = TypeVar("T")


def state(step: int, salt: int = 0) -> dict[str, Any]:
    """A state in which every element tells the step, and who wrote it."""
    value = 1000.0 * step + salt
    return {
        "model": {"a": torch.full((7, 11), value), "b": torch.full((3,), value)},
        "optimizer": {"m": torch.full((40,), value, dtype=torch.float64), "lr": 0.5},
        "step": step,
    }


def value_of(tree: Any) -> float:
    """The one number that all tensors of a state hold; a mixture is an error."""
    flat = torch.cat(
        [t.double().reshape(-1) for t in (*tree["model"].values(), tree["optimizer"]["m"])]
    )
    assert flat.numel() == 120 and bool((flat == flat[0]).all()), "parts of two states"
    return float(flat[0])


class ThreadExchange:
    """The collectives of a world whose ranks are threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size, timeout=600)
        self._board: list[Any] = [None] * size

    def of(self, rank: int) -> RankExchange:
        return RankExchange(self, rank)

    def all(self, rank: int, mine: T) -> list[T]:
        self._board[rank] = mine
        self._barrier.wait()
        everybody = list(self._board)
        self._barrier.wait()
        return everybody


class RankExchange:
    def __init__(self, world: ThreadExchange, rank: int) -> None:
        self._world = world
        self.rank = rank
        self.size = world.size
        self.received = 0

    def broadcast_bytes(self, data: bytes, root: int) -> bytes:
        return self._world.all(self.rank, data)[root]

    def broadcast(self, tensor: torch.Tensor, root: int) -> None:
        tensor.copy_(self._world.all(self.rank, tensor.clone())[root])

    def worst(self, code: int) -> int:
        return max(self._world.all(self.rank, code))


def impatient(seconds: float) -> None:
    """Waiting for ranks that never come is cut short."""
    time.sleep(seconds / 100)


class World:
    """A world's checkpointers, one per rank. They cut every tensor, however small."""

    def __init__(self, url: str, size: int, name: str = "1-1", **options: Any) -> None:
        self.size = size
        self.name = name
        self.clock: Callable[[], float] = options.get("clock", lambda: 0.0)
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.run_dirs = [RunDirectory(url) for _ in range(size)]
        self.ranks = [
            Checkpointer(
                run_dir,
                options.get("retention", Retention(2)),
                self._report,
                sizes=Sizes(options.get("part", 2**20), small=0),
                clock=self.clock,
                sleep=options.get("sleep", getattr(self.clock, "sleep", impatient)),
            )
            for run_dir in self.run_dirs
        ]

    def _report(self, event: str, **fields: Any) -> None:
        self.reports.append((event, fields))

    def save(self, step: int, ranks: list[int] | None = None, salt: int = 0) -> None:
        """Has the checkpoint of ``step`` written by these ranks, and waits for all of them."""
        taking_part = range(self.size) if ranks is None else ranks
        for rank in taking_part:
            assert self.ranks[rank].save(
                state(step, salt), step, rank=rank, size=self.size, world=self.name
            )
        for rank in taking_part:
            self.ranks[rank].flush()

    def load(self) -> list[tuple[Any, int] | None]:
        """What each rank loads, in one collective."""
        exchange = ThreadExchange(self.size)
        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(lambda rank: self.load_as(exchange.of(rank)), range(self.size)))

    def load_as(self, rank: RankExchange) -> tuple[Any, int] | None:
        """What one rank loads; all do at once."""
        place = self.run_dirs[rank.rank]
        return load_newest([place], self._report, rank, torch.device("cpu"))

    def loaded(self) -> tuple[int, float] | None:
        """The step and the value that all ranks loaded."""
        found = self.load()
        kinds = {None if one is None else (one[1], value_of(one[0])) for one in found}
        assert len(kinds) == 1
        return kinds.pop()

    def told(self, event: str) -> list[int]:
        return [fields["step"] for name, fields in self.reports if name == event]


class Clock:
    """Seconds that pass when a test says so; with ``passes``, while somebody sleeps, too."""

    def __init__(self) -> None:
        self.now = 0.0
        self.passes = False

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if self.passes:
            self.now += seconds
        else:
            impatient(seconds)
