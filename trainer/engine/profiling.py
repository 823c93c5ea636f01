"""A worker that profiles some of its steps, as somebody has asked while it trains.

torch's own profiler, from the beginning of the first step until the one after the last begins:
what follows a step's block is in it, too. Nothing is loaded or measured until that is asked for.
When the world is left before the last step, what was seen is written. To make the files takes the
worker seconds, in which the others wait; they go to the store in a thread.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from trainer.protocol.channel import Channel
from trainer.protocol.messages import Profile
from trainer.rundir.directory import RunDirectory
from trainer.rundir.profiles import SNAPSHOT, TABLE, TRACE, stem_of

ROWS = 60  # operations in a table
ALLOCATIONS = 100_000  # of a GPU's memory, the newest, that are in a snapshot
PATIENCE = 30.0  # seconds for the store to take what was seen when the worker's life ends
REASON_LIMIT = 300


class Profiling:
    """Looks at one wish at a time.

    Args:
        channel: says what is asked.
        run_dir: where what was seen is written; None outside a run, where nobody asks.
        emit: emits an event.
    """

    def __init__(
        self, channel: Channel, run_dir: RunDirectory | None, emit: Callable[..., None]
    ) -> None:
        self._channel = channel
        self._run_dir = run_dir
        self._emit = emit
        self._asked: Profile | None = None  # and being seen
        self._over: set[tuple[int, int]] = set()  # generation and number of wishes
        self._profiler: Any = None
        self._first = self._newest = 0  # steps that are seen
        self._writing: threading.Thread | None = None

    def begins(self, step: int, generation: int) -> None:
        """A step is about to begin, in a generation."""
        asked = self._asked
        if asked is not None and step > asked.last:
            self.stop()
        self._newest = step
        if self._asked is None and (asked := self._wanted(step, generation)) is not None:
            self._over.add((asked.generation, asked.number))
            self._first = step
            try:
                self._profiler = _started(asked.memory)
                self._asked = asked
            except Exception as error:  # the program may have a profiler of its own
                _forget_memory(asked.memory)
                self._failed(asked, error)

    def stop(self) -> None:
        """No step follows in this world: what was seen is written."""
        asked, profiler = self._asked, self._profiler
        self._asked = self._profiler = None
        if asked is None:
            return
        try:
            profiler.__exit__(None, None, None)
            made = _files(profiler, asked.memory)
        except Exception as error:  # whatever goes wrong with it, training goes on
            self._failed(asked, error)
            return
        finally:
            _forget_memory(asked.memory)
        self.close()
        self._writing = threading.Thread(
            target=self._write, args=(asked, made, self._told(asked)), name="swell-profile"
        )
        self._writing.start()

    def finish(self) -> None:
        """This worker's life ends: what was seen is written, and waited for."""
        self.stop()
        self.close()

    def close(self) -> None:
        """Waits until what was seen is written, if the store takes it."""
        if self._writing is not None:
            self._writing.join(PATIENCE)

    def _wanted(self, step: int, generation: int) -> Profile | None:
        for asked in self._channel.profiles():
            known = (asked.generation, asked.number) in self._over
            if asked.generation == generation and not known and asked.first <= step <= asked.last:
                return asked
        return None

    def _told(self, asked: Profile) -> dict[str, int]:
        """What the event says of a wish."""
        last = min(self._newest, asked.last)
        return {
            "generation": asked.generation,
            "step": last,
            "profile": asked.number,
            "rank": asked.rank,
            "first": self._first,
            "count": last - self._first + 1,
        }

    def _failed(self, asked: Profile, error: Exception) -> None:
        self._emit("profiled", **self._told(asked), reason=f"it failed: {error}"[:REASON_LIMIT])

    def _write(self, asked: Profile, made: dict[str, bytes], told: dict[str, int]) -> None:
        assert self._run_dir is not None
        stem = stem_of(asked.number, asked.generation, asked.rank)
        try:
            for ending, data in made.items():
                self._run_dir.store.write(f"{stem}{ending}", data)
        except OSError as error:
            self._emit("profiled", **told, reason=f"it could not be written: {error}")
        else:
            self._emit("profiled", **told, names=[f"{stem}{ending}" for ending in made])


def _started(memory: bool) -> Any:
    from torch import profiler

    kinds = {profiler.ProfilerActivity.CPU}
    if torch.cuda.is_initialized():
        kinds.add(profiler.ProfilerActivity.CUDA)
        if memory:
            torch.cuda.memory._record_memory_history(max_entries=ALLOCATIONS)
    started = profiler.profile(
        activities=kinds, record_shapes=True, profile_memory=memory, with_stack=memory
    )
    started.__enter__()
    return started


def _forget_memory(memory: bool) -> None:
    """What a GPU allocates is written down no longer: it costs time and memory at each step."""
    if memory and torch.cuda.is_initialized():
        with suppress(Exception):  # training goes on
            torch.cuda.memory._record_memory_history(enabled=None)


def _files(profiler: Any, memory: bool) -> dict[str, bytes]:
    """What was seen, by how the names of the files end."""
    on_gpu = torch.cuda.is_initialized()
    made = {}
    with tempfile.TemporaryDirectory(prefix="swell-profile-") as folder:
        trace = Path(folder) / f"seen{TRACE}"
        profiler.export_chrome_trace(str(trace))
        made[TRACE] = trace.read_bytes()
        what = "memory_usage" if memory else "time_total"
        table = profiler.key_averages().table(
            sort_by=f"self_{'cuda' if on_gpu else 'cpu'}_{what}", row_limit=ROWS
        )
        made[TABLE] = f"{table}\n".encode()
        if memory and on_gpu:
            snapshot = Path(folder) / f"seen{SNAPSHOT}"
            torch.cuda.memory._dump_snapshot(str(snapshot))
            made[SNAPSHOT] = snapshot.read_bytes()
    return made
