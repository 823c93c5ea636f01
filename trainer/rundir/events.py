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
attempt_started           attempt, job, region, choice, replicas, wanted (VMs that it has, and that
                          all attempts together are to have), usd_per_hour, on_demand (what its
                          VMs cost in an hour, and would on demand), flops (operations a second of
                          its GPUs, at most: dense, in bf16), beside (true of one that is tried
                          beside a dear one, which goes on)            (launcher)
attempt_ended             attempt, state, verdict, reason   (launcher)
attempt_due               attempt, choice, seconds          (launcher; when it has to wait)
attempt_left              attempt, reason                   (launcher; another is tried instead)
attempt_replaced          attempt, reason                   (launcher; it is not wanted any more)
controller_started        controller (its number), job, region  (launcher)
controller_ended          controller, state, reason         (launcher)
wanted                    version, jobs, region, machine, strategy, by (whoever asked for it; see
                          trainer.rundir.wanted)
moved                     attempt, region, home             (launcher; the run directory stays)
stockout                  attempt, region, reason, beside   (launcher; see attempt_started)
stop_asked                reason                            (launcher; a limit is reached)
leader_changed            term, member, address, attempt
member_joined             member, slots, incarnation, term, age (seconds that its agent
                          has lived; 0 where it does not say)
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
world_adopted             generation, world_size, members, term: a new leader leads a world that
                          another has formed, who may not have come to tell of it
resumed                   generation, world_size, cause, step, lost_steps, seconds; of a
                          torchrun script without step and lost_steps: its first `steps` tell
waiting                   slots, min_workers                (below min_workers)
held_up                   generation, step, reason (what is waited for), seconds (so far),
                          limit (seconds, after which it is over), then (what happens then)
standstill                generation, step, seconds (so far), reason (which ranks wait in what, and
                          who is elsewhere), stacks (the file that has the stacks of all workers, in
                          the run directory): no step for long, but everybody lives
gpu_error                 member, reason                    (a critical error of a GPU: its Xid)
unfit                     member, incarnation, reason (what its machine has shown, and others have),
                          then (replica | out): it is not let in (elastic: {preflight: true})
straggler                 generation, step, member, rank, ratio (its own time, as a multiple of
                          the others'), seconds, usual (in a step: its own time, and the others'),
                          reason (why, as far as anybody can tell), over (true: it is none any
                          more), then (replica: it leaves, and is started anew elsewhere)
unattended                seconds, over (nobody has looked after the run for so long; over: somebody
                          does again)
stalled                   generation, step, seconds, member (no step, but everybody lives; of a
                          world of one worker also where that is: nobody breaks it off)
first_step                generation, step, seconds         (a world's first step is completed,
                          so long after its workers had begun)
steps                     generation, first, count, metrics: {name: [one value per step]}, of
                          those that were added to (fewer values are of the last steps),
                          total_steps, seconds (that they took, each since the one before in
                          this world), samples (of all ranks, in these seconds), age (seconds
                          since the last of them), data_wait (of the seconds, those that rank 0
                          has waited for its batches, where that is known), accounts (seconds
                          of all ranks together, by what they went into: see
                          trainer.engine.timing); a step may be reported twice
ranks                     generation, step, count, seconds, ranks, computed, data_wait, waited,
                          median (what each rank has spent over the newest steps: see Ranks in
                          trainer.protocol.messages)
state_sent                generation, bytes, total_bytes, seconds (so far; the last one has
                          sent all)
profiled                  generation, step, profile (the number of the wish: see
                          trainer.rundir.profiles), rank, first, count (steps, the last of them
                          step), names (the files), reason (why there are none)
evaluated                 step, metrics: {name: value}, seconds (that it took, where that is known)
rates                     flops (operations that a sample takes, forward and backward), device
                          (what rank 0 computes on, as torch names it)
units                     step, unit, reason                (from this step on the batch is computed
                          by units of so many samples)
checkpoint_committed      step, bytes, seconds
checkpoint_rejected       step, reason
checkpoint_failed         step, reason, failures            (in a row; the store did not take it,
                          or a rank did not write its share)
checkpoint_skipped        step, reason                      (the notice is too short for it)
no_best                   step, reason                      (what keep_best goes by is not among
                          what was reported)
no_group                  generation, world_size, reason (the processes of a torchrun script train,
                          and each by itself: they have no process group, or do not use it)
unsaved_files             files (how many), reason          (what the program has written beside
                          its code ends with the VM)
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
agent_failed              member, attempt, reason           (a replica that cannot begin, or whose
                          agent itself has failed)
task_failed               member, rank, step, reason (the traceback; no rank before the first world)
fault                     member, incarnation, rank, step, reason, whose (machine | newcomer |
                          script), faults (of this machine), then (process | replica | out: what is
                          replaced, or that the run goes on without it)
finished                  state, reason, step, least (of a torchrun script: the last that it told)
notification_failed       reason                            (launcher)
telemetry_failed          reason                            (the run is not told of elsewhere, as it
                          should be: see trainer.telemetry.herald)
unreadable                reason                            (made by readers; never written)
========================  =======================================================

Events are buffered and written as numbered batches, because object stores cannot append: see
trainer.rundir.batches. The leader puts batches together (trainer.rundir.compaction), which readers
do not notice. A reader does not guess what a newer format means: of a writer of one, all that it
makes known is one ``unreadable``.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import accumulate, takewhile
from typing import Any, Literal, get_args

from trainer.rundir import clock, formats
from trainer.rundir.batches import BATCH_LIMIT, Batch, encode, newer, parse, unreadable
from trainer.rundir.batches import Event as Event
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import EVENTS
from trainer.rundir.numbers import dumped
from trainer.rundir.seen import Seen
from trainer.rundir.segments import (
    INDEX,
    READ_LIMIT,
    Index,
    Segment,
    events_in,
    read_index,
    spans_in,
)
from trainer.rundir.store import TooLarge

# Why one generation ends and the next forms. Of several causes the one furthest right counts:
# that a collective broke ("break") says least.
Cause = Literal[
    "grow", "drain", "break", "repeat", "rollback", "failure", "loss", "leader", "start"
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
FLUSH_EVERY = 0.5  # seconds
LOOKS = 5  # at what others replace meanwhile
BATCH_SIZE = 4 * 2**20  # bytes up to which events are written together, well below BATCH_LIMIT
_NONE = Batch("", 0)


class EventWriter:
    """Buffers events of one writer; ``flush`` writes them as the next batch.

    Args:
        run_dir: where to write.
        writer: a name that no other living writer of the run uses.
        clock: returns Unix time in seconds; see trainer.rundir.clock.
        listener: called with each event when it is added; must neither block nor raise.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        writer: str,
        clock: Callable[[], float] = clock.now,
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
                batch = Batch(self._writer, self._next)
                self._run_dir.store.write(batch.name, encode(self._batch))
                self._next += 1
                self._batch = []

    async def flush_often(self, every: float = FLUSH_EVERY) -> None:
        """Flushes every so many seconds until it is cancelled, whatever the store does."""
        while True:
            await asyncio.sleep(every)
            with suppress(OSError):  # what could not be written stays buffered
                await asyncio.to_thread(self.flush)

    def _take(self) -> bool:
        """Begins the next batch; after a store was away for hours there may be several."""
        with self._lock:
            ends = accumulate(map(len, self._buffer))
            most = max(1, sum(1 for _ in takewhile(lambda end: end <= BATCH_SIZE, ends)))
            self._batch, self._buffer = self._buffer[:most], self._buffer[most:]
        return bool(self._batch)


class EventReader:
    """Reads a run's events; each call of ``read_new`` returns those not returned before.

    What it reads is what is new: of a run that was never looked at the segments and the batches
    since, several at once, and later batches alone, as long as it looks often enough.

    Args:
        run_dir: the run.
        brief: whether the gist of what is in segments will do (see trainer.rundir.gist): all
            events but the single steps.
        seen: what another reader had seen: it goes on from there. None for all events.

    Attributes:
        seen: the batches whose events were returned.
    """

    def __init__(
        self, run_dir: RunDirectory, *, brief: bool = False, seen: Seen | None = None
    ) -> None:
        self._run_dir = run_dir
        self._store = run_dir.store
        self._brief = brief
        self.seen = Seen() if seen is None else seen
        self._goes_on = seen is not None
        self._index = Index()  # all that it covers was returned
        self._unreadable: set[str] = set()  # writers of a newer format; or the index is

    def read_new(self) -> list[Event]:
        """Returns events written since the last call, in order of time.

        Lines that are not JSON objects with ``event`` and ``time`` are skipped: the
        store is not trusted. Of each writer of a newer format there is one ``unreadable``.

        Raises OSError when the store does not answer, and ValueError for a damaged index.
        """
        read: dict[str, bytes] = {}  # by name: what has one never changes
        gone: Counter[str] = Counter()
        while True:
            try:
                return self._look(read)
            except FileNotFoundError as error:  # it is in a segment by now, or that in a larger one
                gone[str(error)] += 1
                if gone[str(error)] == LOOKS:  # somebody is quicker again and again: not with one
                    raise

    def _look(self, read: dict[str, bytes]) -> list[Event]:
        # Before the index: what is gone by then, that covers.
        files = self._store.files(EVENTS)
        unread: dict[str, Event] = {}  # of a newer format, by what is
        try:
            index = read_index(self._run_dir, self._index)
        except formats.FormatError as error:
            index = Index()
            unread[INDEX] = unreadable(b"", error)
        new = {batch for batch in map(Batch.of, files) if batch and batch not in self.seen}
        events: list[tuple[Batch, Event]] = []
        if self.seen.lacks(index, new):
            new = {batch for batch in new if not index.covered(batch)}
            found = [one for one in index.segments if one not in self._index.segments]
            if self._by_gist:
                self._read([one.gist for one in found], READ_LIMIT, read)
            events += self._from_segments(found, read)
        self._read([batch.name for batch in new], BATCH_LIMIT, read)
        for batch in sorted(new):
            data = read[batch.name]
            if (why := newer(data, f"{EVENTS}/{batch.writer}")) is None:
                events += ((batch, event) for event in parse(data))
            else:
                unread.setdefault(batch.writer, unreadable(data, why))
        events += [(_NONE, event) for what, event in unread.items() if what not in self._unreadable]
        self.seen.add(new, index)
        self._index = index
        self._unreadable.update(unread)
        # At the same time it is the writers' names, however their batches were put together.
        events.sort(key=lambda told: (float(told[1]["time"]), told[0]))
        return [event for _, event in events]

    @property
    def _by_gist(self) -> bool:
        """Whether the gist of a segment is read, or whether it is asked what is in there."""
        return self._brief or self._goes_on

    def _from_segments(
        self, segments: list[Segment], read: dict[str, bytes]
    ) -> list[tuple[Batch, Event]]:
        """The events in segments that were not returned, each with its batch; a gist has none."""
        events: list[tuple[Batch, Event]] = []
        in_full = []
        for one in segments:
            seen = None
            if self._by_gist:
                seen = self.seen.of(spans_in(read[one.gist], f"{self._run_dir.url}/{one.gist}"))
            if seen is None or not (seen or self._brief):
                in_full.append(one)
            elif not seen:
                events += ((_NONE, event) for event in parse(read[one.gist]))
        self._read([one.name for one in in_full], READ_LIMIT, read)
        for one in in_full:
            found = events_in(read[one.name])
            events += (told for told in found if told[0] not in self.seen)
        return events

    def _read(self, names: Iterable[str], limit: int, read: dict[str, bytes]) -> None:
        """Reads files that are not read yet, each up to so many bytes."""

        def one(name: str) -> None:
            try:
                read[name] = self._store.read(name, limit)
            except TooLarge:
                if limit != BATCH_LIMIT:
                    raise
                read[name] = b""  # nobody has written that as a batch

        self._store.each(one, [name for name in names if name not in read])


def read_events(run_dir: RunDirectory, *, brief: bool = False) -> list[Event]:
    """Returns all events of a run in order of time; ``brief``: see EventReader."""
    return EventReader(run_dir, brief=brief).read_new()
