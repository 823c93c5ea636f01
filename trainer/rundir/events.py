"""The one vocabulary of events: written by agents and the launcher, read by everything.

An event is one JSON object on one line::

    {"event": "resumed", "time": 1764000000.123, "generation": 3, "step": 117, "seconds": 0.41}

``time`` is Unix time in seconds. Other fields are there where they have a meaning:
``generation``, ``step`` (steps completed), ``world_size``, ``seconds`` (a duration),
``member`` (``workerpool1-0``), ``cause`` (one of ``CAUSES``) and ``reason``. A metric that is no
finite number is "nan", "inf" or "-inf" (see trainer.rundir.numbers).

========================  =======================================================
event                     further fields
========================  =======================================================
attempt_started           attempt, job, region, choice      (launcher)
attempt_ended             attempt, state, verdict, reason   (launcher)
attempt_due               attempt, choice, seconds          (launcher; when it has to wait)
attempt_left              attempt, reason                   (launcher; another is tried instead)
moved                     attempt, region, home             (launcher; the run directory stays)
stockout                  attempt, region, reason           (launcher)
stop_asked                reason                            (launcher; a limit is reached)
leader_changed            term, member, address
member_joined             member, slots, incarnation, term
member_ready              member
connected                 member, peer, latency (seconds, there and back), bandwidth (bytes per
                          second): the first member of its job that has shown that it and one of
                          another job reach each other
unreachable               member, peer, address, peer_address, reason, incarnation (a member of
                          another job, or the leader, does not reach it, or it does not reach that
                          one: it is not let into the world)
drain                     member, reason, deadline_seconds, incarnation
loss                      member, reason, incarnation, term, gone (true: the whole member; else
                          one of its workers)
paused                    generation, cause, step
generation_formed         generation, world_size, cause, members, term
resumed                   generation, world_size, cause, step, lost_steps, seconds; of a
                          torchrun script without step and lost_steps: its first `steps` tell
waiting                   slots, min_workers                (below min_workers)
stalled                   generation, step, seconds         (no step, but everybody lives)
first_step                generation, step, seconds         (a world's first step is completed,
                          so long after its workers had begun)
steps                     generation, first, count, metrics: {name: [one value per step]}, of
                          those that were added to, total_steps, seconds (that they took, each
                          since the one before in this world), samples (of all ranks, in these
                          seconds), age (seconds since the last of them); a step may be reported
                          twice
state_sent                generation, bytes, total_bytes, seconds (so far; the last one has
                          sent all)
evaluated                 step, metrics: {name: value}
units                     step, unit, reason                (from this step on the batch is computed
                          by units of so many samples)
checkpoint_committed      step, bytes, seconds
checkpoint_rejected       step, reason
checkpoint_failed         step, reason, failures            (in a row; the store did not take it,
                          or a rank did not write its share)
checkpoint_skipped        step, reason                      (the notice is too short for it)
audit_failed              step, reason                      (the samples of this step and those that
                          follow are not on record yet)
store_unavailable         reason, seconds                   (the start waits for it, so long)
worker_replaced           step, rank, reason, replaced      (it held another state than all
                          others; the third in a run is the last)
begun                     url, step, changes                (from another run's checkpoint;
                          what is not as it was then, in words)
nonfinite                 step, rank, ids, reason, action, checkpoint, metrics (the loss or the
                          gradients of a step were not finite; of each rank that it came
                          from, with its samples; action is stop, skip or rollback, and
                          checkpoint the step that the run goes back to)
micro_batch_halved        step, rank, samples, reason       (memory ran out: the step is taken
                          again, in parts of at most so many samples)
rank_failed               generation, member, rank, step, reason (a torchrun script's process;
                          the traceback)
resized                   generation, world_size, before    (a torchrun script's world: its
                          effective batch changes)
output_committed          generation, names, bytes          (what a torchrun script has written)
task_failed               member, rank, step, reason (the traceback)
fault                     member, incarnation, rank, step, reason, whose (machine | newcomer),
                          faults (of this machine), then (process | replica | out: what is
                          replaced, or that the run goes on without it)
finished                  state, reason, step
notification_failed       reason                            (launcher)
unreadable                reason                            (made by readers; never written)
========================  =======================================================

Events are buffered and written as numbered batches, because object stores cannot
append: ``events/<writer>/<seq>.jsonl``. The first line of each says its format, and which Swell
wrote it. A reader does not guess what a newer format means: of a writer of one, all that it makes
known is one ``unreadable``.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Literal, get_args

from trainer.rundir import formats
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import EVENTS
from trainer.rundir.numbers import dumped
from trainer.rundir.store import TooLarge
from trainer.rundir.untrusted import parse_json

Event = dict[str, Any]

# Why one generation ends and the next forms. Of several causes the one furthest right counts:
# that a collective broke ("break") says least.
Cause = Literal[
    "grow", "drain", "break", "repeat", "rollback", "failure", "loss", "leader", "start"
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
BATCH_LIMIT = 64 * 2**20  # bytes of one batch that a reader takes in
LINE_LIMIT = 8 * 2**20  # bytes of one event
FLUSH_EVERY = 0.5  # seconds


class EventWriter:
    """Buffers events of one writer; ``flush`` writes them as the next batch.

    Args:
        run_dir: where to write.
        writer: a name that no other living writer of the run uses.
        clock: returns Unix time in seconds.
        listener: called with each event when it is added; must neither block nor raise.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        writer: str,
        clock: Callable[[], float] = time.time,
        listener: Callable[[Event], object] = lambda event: None,
    ) -> None:
        self._run_dir = run_dir
        self._writer = writer
        self._clock = clock
        self._listener = listener
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._buffer: list[str] = []
        self._batch: list[str] = []  # on its way: a batch is never written with other lines
        self._next = 0

    def emit(self, event: str, **fields: Any) -> None:
        """Adds one event; fields that are None are left out."""
        record = {"event": event, "time": self._clock()}
        record.update((key, value) for key, value in fields.items() if value is not None)
        line = dumped(record)
        with self._lock:
            self._buffer.append(line)
        self._listener(record)

    def flush(self) -> None:
        """Writes what is buffered. What could not be written stays buffered; OSError is raised."""
        with self._flushing:
            while self._batch or self._take():
                name = f"{EVENTS}/{self._writer}/{self._next:06d}.jsonl"
                lines = [json.dumps(formats.EVENTS.stamp()), *self._batch]
                self._run_dir.store.write(name, ("\n".join(lines) + "\n").encode())
                self._next += 1
                self._batch = []

    async def flush_often(self, every: float = FLUSH_EVERY) -> None:
        """Flushes every so many seconds until it is cancelled, whatever the store does."""
        while True:
            await asyncio.sleep(every)
            with suppress(OSError):  # what could not be written stays buffered
                await asyncio.to_thread(self.flush)

    def _take(self) -> bool:
        with self._lock:
            self._batch, self._buffer = self._buffer, []
        return bool(self._batch)


class EventReader:
    """Reads a run's events; each call of ``read_new`` returns those not returned before."""

    def __init__(self, run_dir: RunDirectory) -> None:
        self._store = run_dir.store
        self._seen: set[str] = set()
        self._unreadable: set[str] = set()  # writers of a newer format

    def read_new(self) -> list[Event]:
        """Returns events written since the last call, in order of time.

        Lines that are not JSON objects with ``event`` and ``time`` are skipped: the
        store is not trusted. Of each writer of a newer format there is one ``unreadable``.
        """
        events: list[Event] = []
        new: list[str] = []  # seen only when all were read: a store may fail on the way
        unreadable: set[str] = set()
        for writer in self._store.names(EVENTS):
            for batch in self._store.names(f"{EVENTS}/{writer}"):
                name = f"{EVENTS}/{writer}/{batch}"
                if name not in self._seen:
                    with suppress(TooLarge):
                        data = self._store.read(name, BATCH_LIMIT)
                        if (why := _newer(data, f"{EVENTS}/{writer}")) is None:
                            events.extend(_parse(data))
                        elif writer not in self._unreadable | unreadable:
                            events.append(_unreadable(data, why))
                            unreadable.add(writer)
                    new.append(name)
        self._seen.update(new)
        self._unreadable |= unreadable
        return sorted(events, key=lambda event: event["time"])


def read_events(run_dir: RunDirectory) -> list[Event]:
    """Returns all events of a run in order of time."""
    return EventReader(run_dir).read_new()


def _parse(data: bytes) -> Iterator[Event]:
    for line in data.splitlines():
        if len(line) > LINE_LIMIT:
            continue
        try:
            event = parse_json(line)
        except ValueError:
            continue
        if (
            isinstance(event, dict)
            and isinstance(event.get("event"), str)
            and isinstance(event.get("time"), int | float)
            and math.isfinite(event["time"])  # else nothing could be put in order
        ):
            yield _upgraded(event)


def _newer(data: bytes, where: str) -> formats.FormatError | None:
    """Returns why a batch cannot be read: it is of a newer format. A damaged one is not."""
    line, _, _ = data[:LINE_LIMIT].partition(b"\n")
    try:
        head = parse_json(line)
        if isinstance(head, dict) and "event" not in head:
            formats.EVENTS.found(head, where)
    except formats.FormatError as error:
        return error
    except ValueError:
        return None
    return None


def _unreadable(data: bytes, error: formats.FormatError) -> Event:
    """What is known of a batch of a newer format: that there is one, and when it began."""
    times = [event["time"] for event in _parse(data)]
    return {"event": "unreadable", "time": min(times, default=0.0), "reason": str(error)}


def _upgraded(event: Event) -> Event:
    """An event that an older version wrote, in the form of this one."""
    if event["event"] == "leader_changed" and "epoch" in event:
        event["term"] = event.pop("epoch")
    return event
