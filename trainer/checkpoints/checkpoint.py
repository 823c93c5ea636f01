"""Checkpoints: the fallback for when no worker holds the state any more.

    checkpoints/step-000001200/part-00003-of-00008-4a1f….safetensors   see shards
    checkpoints/step-000001200/receipt-000001-000004-w2-00001.json     what one rank has written
    checkpoints/step-000001200/manifest.json                           last, exclusively

No manifest, no checkpoint: a half-written one is never seen. Training pauses only while a
rank copies its share of the state, 1/W of the bytes, to host memory; a thread has it written by
another process (see scribe). No rank waits for another in a step: a rank that has written leaves
a receipt in the store, and whoever finds the receipts of all makes the manifest, survivors too
when others are lost. What cannot be completed is abandoned, and collected later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any

import torch

from trainer.checkpoints.leftovers import Leftovers
from trainer.checkpoints.manifest import (
    MANIFEST,
    Manifest,
    commit,
    folder_of,
    receipt_name,
    receipts_of,
    require_signed,
    sha256_of,
    signed,
    write_metrics,
    writing_of,
)
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.scribe import Scribe
from trainer.checkpoints.shardfile import ShardFile, step_aside, write_shards
from trainer.checkpoints.shards import SIZES, Layout, Sizes, Slot, as_memory, slots_of
from trainer.checkpoints.shared_memory import Room
from trainer.checkpoints.tree import flatten, names_in
from trainer.protocol.lease import superseded
from trainer.protocol.session import Session
from trainer.rundir.directory import RunDirectory

PATIENCE = 60.0  # seconds that rank 0 waits for another rank's receipt
LOST_PATIENCE = 3.0  # the same, once a rank of its world is lost
POLL = 0.1  # seconds
LONGEST_POLL = 1.0
COMMIT = 1.0  # seconds for receipts and manifest, once the shards are written
YIELD = 0.001  # seconds: else the training thread waits 5 ms for the interpreter to switch
ROOMS = 2  # one is written while the next one is filled
THREADS = 32  # at most: each checkpoint waits for other ranks in one, and only for those before it

Report = Callable[..., None]

log = logging.getLogger("swell.checkpoint")


@dataclass
class Writing:
    """One checkpoint that this rank takes part in."""

    step: int
    world: str
    rank: int
    size: int
    skeleton: Any
    layout: Layout
    urgent: bool
    about: dict[str, Any]
    digest: int
    copied: Callable[[], None]  # returns when copies from a GPU have arrived
    lost: Callable[[], bool]
    began: float
    then: Callable[[], None]
    written: Event = field(default_factory=Event)  # this rank's shards
    done: Event = field(default_factory=Event)

    @property
    def name(self) -> str:
        """Tells this writing from those of other worlds."""
        return f"{self.world}-w{self.size}"


class Checkpointer:
    """Writes the checkpoints of one run, as one rank of whatever world there is.

    Args:
        run_dir: the run.
        keep: how many of the newest to keep, or what else.
        report: called as ``report(event, **fields)`` with events of trainer.rundir.events, also
            from a thread.
        place: the directory that they are written to; None for the run directory.
        scribe: has them written, once it is ready; until then, and without one, threads of this
            process write.
        sizes: how large the shards are.
        clock: monotonic seconds.
        sleep: waits so many of them.
    """

    def __init__(
        self,
        run_dir: RunDirectory,
        keep: int | Retention,
        report: Report,
        *,
        place: RunDirectory | None = None,
        scribe: Scribe | None = None,
        sizes: Sizes = SIZES,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._run_dir = run_dir
        self._place = place or run_dir
        self._retention = Retention(keep) if isinstance(keep, int) else keep
        self._report = report
        self._sizes = sizes
        self._clock = clock
        self._sleep = sleep
        self._leftovers = Leftovers(self._place, clock)
        self._world = ""
        self._last: Writing | None = None
        self._open: list[Writing] = []  # and others that are not done
        self._layout: Layout | None = None
        # A thread that is there already: starting one takes longer than to copy some megabytes.
        self._pool = ThreadPoolExecutor(THREADS, "swell-checkpoint", initializer=step_aside)
        self._writings: list[Future[None]] = []
        self._scribe = scribe
        self._rooms: list[Room] = []  # those that are free
        self._in_use = 0
        self._lock = Lock()
        self.committed: int | None = None  # the last step that this rank knows to be there
        self._began_with: int | None = None
        self._damaged: set[int] = set()
        self.unwritten: set[int] = set()  # steps of which not all that was to be said is there
        self.good: int | None = None  # up to here checkpoints are known to be; None for all
        self.failures = 0  # in a row
        self.failure = ""  # why the last of these
        self.bytes_per_second: float | None = None  # of the last writing, by this rank

    @classmethod
    def of(cls, session: Session, report: Report) -> Checkpointer | None:
        """The checkpointer of a worker; None outside a run."""
        run_dir, settings = session.run_dir, session.checkpoint
        if run_dir is None:
            return None
        retention = Retention(settings.keep, settings.keep_every, settings.keep_best)
        place = session.checkpoint_dirs[0]
        return cls(run_dir, retention, report, place=place, scribe=Scribe(place.url))

    # --- saving -----------------------------------------------------------------------

    def busy(self, world: str = "") -> bool:
        """Whether a checkpoint of ``world`` is still being written."""
        self._open = [one for one in self._open if not one.done.is_set()]
        return any(one.world == world for one in self._open)

    def enter(self, world: str) -> None:
        """Tells which world this rank is in: ranks of the one before may be gone."""
        self._world = world

    def save(
        self,
        tree: Any,
        step: int,
        *,
        rank: int = 0,
        size: int = 1,
        world: str = "alone",
        about: dict[str, Any] | None = None,
        digest: int = 0,
        wait: bool = False,
        until: float | None = None,
        beside: bool = False,
        lost: Callable[[], bool] = lambda: False,
        then: Callable[[], None] = lambda: None,
    ) -> bool:
        """Copies this rank's share of ``tree`` and has it written, for the checkpoint of ``step``.

        All ranks of a world call it after the same step; that takes no communication, and
        returns as soon as the copy is made.

        Args:
            tree: the state, alike on all ranks.
            step: steps completed.
            rank, size: this rank, and how many write.
            world: tells this world from every other: no two may use the same text.
            about: plain values for the manifest; rank 0's count.
            digest: of the whole state as this rank holds it. Unless all ranks' are equal, there is
                no checkpoint: it would mix the states of several.
            wait: return only when the checkpoint is there, or has failed.
            until: this state may be lost soon: it is written though another one is still being
                written, unless that would take longer than until this time of the clock (math.inf
                for no limit), going by the speed measured last.
            beside: whether it is of a world that goes on, and so does what is written in that; one
                of the same name is waited for.
            lost: whether a rank of this world is known to be lost: it may write no more.
            then: called when this rank is done with it, well or not, unless False is returned; from
                a thread.

        Returns False, having done nothing, if a checkpoint is still being written in this
        world, or both rooms are in use, and ``wait`` is false and ``until`` None; and after
        the event ``checkpoint_skipped`` if the time until ``until`` is too short. What fails
        after that, for want of memory, too, is reported as ``checkpoint_failed``. Raises
        TypeError, naming the place, for state that a checkpoint cannot hold.
        """
        began = self._clock()
        urgent = wait or until is not None
        if not beside:
            self.enter(world)
        if (wait or beside) and self.busy(world):
            for one in self._open:
                if wait or one.world == world:
                    one.done.wait()
        if self.busy(world) and rank == 0:
            return False
        skeleton, tensors = flatten(tree)
        layout = self._layout_for(slots_of(names_in(skeleton), tensors), rank, size)
        if until is not None and (why := self._why_too_late(layout.bytes, until)):
            self._report("checkpoint_skipped", step=step, reason=why)
            return False
        try:
            room = self._take_room(layout.bytes, urgent)
        except OSError as error:
            self._failed(step, f"there is no memory to copy {layout.bytes:,d} bytes to: {error}")
            then()
            return True
        if room is None:
            return False
        copied = layout.copy(tensors, room.memory)
        writing = Writing(
            step=step,
            world=world,
            rank=rank,
            size=size,
            skeleton=skeleton,
            layout=layout,
            urgent=urgent,
            digest=digest,
            about={**(about or {}), "torch": str(torch.__version__), "world_size": size},
            copied=copied,
            lost=lost,
            began=began,
            then=then,
        )
        before, self._last = self._last, writing
        self._open.append(writing)
        future = self._pool.submit(self._write, writing, room, before)
        self._writings = [one for one in self._writings if not one.done()]
        self._writings.append(future)
        if wait:
            future.result()
        return True

    def tidy(self) -> None:
        """Deletes what is not kept any more, now that more is known to be good."""
        if self.committed is not None:
            with suppress(OSError):  # what was not deleted stays
                self._leftovers.tidy(self.committed, self._retention, self.good)

    def begins(self, step: int, damaged: Collection[int] = ()) -> None:
        """This process begins with the run's checkpoint of ``step``; others were found damaged."""
        self._began_with = step
        self._damaged = {*damaged}

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> bool:
        """The state of ``step`` was evaluated, after this process had begun to write it, or with
        its checkpoint.

        Returns False if it has done neither. What the store does not take is reported.
        """
        try:
            writing = self._writing_of(step)
            if writing:
                write_metrics(self._place, step, writing, metrics)
                self._leftovers.forget()
        except OSError as error:
            self._failed(step, f"its metrics were not written: {error}")
            return True
        return bool(writing)

    def _writing_of(self, step: int) -> str:
        """Which writing of a step's state is its checkpoint, or will be; "" if none is known."""
        known = step in (self.committed, self._began_with)
        own = "" if self._last is None or self._last.step != step else self._last.name
        return (writing_of(self._place, step) if known else "") or own

    def went_back(self, step: int) -> None:
        """The checkpoints after ``step`` are gone, and others will be written in their place."""
        self.committed = step
        self._leftovers.forget()

    def flush(self) -> None:
        """Waits until everything that was saved is written, or has failed."""
        wait_for(self._writings)

    def close(self) -> None:
        """Waits as ``flush`` does, and ends the process that writes."""
        self.flush()
        if self._scribe is not None:
            self._scribe.close()

    @property
    def seconds(self) -> float:
        """How long this rank needs to write as much as it did last; 0 before the first time."""
        if self._last is None or self.bytes_per_second is None:
            return 0.0
        return self._last.layout.bytes / self.bytes_per_second + COMMIT

    def _why_too_late(self, share: int, until: float) -> str | None:
        """Why ``share`` bytes are not written until then; None if they are, or nobody knows."""
        now, speed, last = self._clock(), self.bytes_per_second, self._last
        if speed is None:
            return None
        needed = share / speed + COMMIT
        if last is not None and not last.written.is_set():
            needed += max(0.0, last.layout.bytes / speed - (now - last.began))
        if now + needed <= until:
            return None
        return (
            f"{share / 1e6:,.1f} MB take about {needed:.1f} s at the {speed / 1e6:,.1f} MB/s that "
            f"were measured last, and {max(0.0, until - now):.1f} s are left of the notice"
        )

    def _layout_for(self, slots: list[Slot], rank: int, size: int) -> Layout:
        """The layout of this rank's share: as a rule that of the last time."""
        known = self._layout
        if known is None or (known.rank, known.size, known.slots) != (rank, size, slots):
            known = self._layout = Layout.of(slots, rank, size, self._sizes)
        return known

    def _take_room(self, size: int, must: bool) -> Room | None:
        with self._lock:
            self._rooms = [one for one in self._rooms if one.size == size]
            if self._rooms:
                self._in_use += 1
                return self._rooms.pop()
            if self._in_use >= ROOMS and not must:
                return None
            room = Room(size)
            self._in_use += 1
        return room

    def _give_back(self, room: Room) -> None:
        with self._lock:
            self._in_use -= 1
            self._rooms.append(room)

    # --- the writing thread -------------------------------------------------------------

    def _write(self, writing: Writing, room: Room, before: Writing | None) -> None:
        self._sleep(YIELD)
        try:
            try:
                if before is not None:
                    before.written.wait()
                shards = self._write_shards(writing, room)
            finally:
                self._give_back(room)
                writing.written.set()
            self._commit(writing, shards)
        except (OSError, ValueError) as error:  # ValueError: somebody's damaged receipt
            self._failed(writing.step, str(error))
        except Exception as error:
            log.exception("a defect: the checkpoint of step %d", writing.step)
            self._failed(writing.step, repr(error))
        finally:
            writing.done.set()
            writing.then()

    def _is_of(self, writing: Writing) -> bool:
        """Whether a manifest that is there is no damaged one from before."""
        if writing.step not in self._damaged:
            return True
        return writing_of(self._place, writing.step) == writing.name

    def _is_there(self, step: int) -> None:
        self.failures = 0
        self.committed = step
        self.unwritten.discard(step)

    def _failed(self, step: int, reason: str) -> None:
        self.failures += 1
        self.failure = reason
        self.unwritten.add(step)
        # In this replica's log, too: the event waits for the store.
        log.warning("the checkpoint of step %d was not written: %s", step, reason)
        self._report("checkpoint_failed", step=step, reason=reason, failures=self.failures)

    def _write_shards(self, writing: Writing, room: Room) -> list[ShardFile]:
        writing.copied()
        folder, total, parts = folder_of(writing.step), writing.layout.total, writing.layout.parts
        if self._scribe is not None and self._scribe.ready():
            shards, seconds = self._scribe.write(folder, total, room.fd, parts)
        else:
            if self._scribe is not None and not writing.urgent:
                self._scribe.start()  # for the next one
            began, memory = self._clock(), as_memory(room.memory)
            shards = write_shards(self._place.store, folder, total, memory, parts)
            seconds = self._clock() - began
        if shards:
            self.bytes_per_second = sum(shard.bytes for shard in shards) / max(seconds, 1e-6)
        return shards

    def _commit(self, writing: Writing, shards: list[ShardFile]) -> None:
        """Leaves this rank's receipt, and makes the manifest if all receipts are there."""
        receipt = {
            "rank": writing.rank,
            "layout": sha256_of([slot.to_json() for slot in writing.layout.slots]),
            "digest": f"{writing.digest:016x}",
            "shards": [vars(shard) for shard in shards],
        }
        if writing.rank == 0:
            receipt |= {"skeleton": writing.skeleton, "about": writing.about}
        receipt = signed(receipt)
        if writing.size == 1:
            self._make_manifest(writing, [receipt])
            return
        folder = folder_of(writing.step)
        self._place.write_json(f"{folder}/{receipt_name(writing.name, writing.rank)}", receipt)
        began, wait, there = self._clock(), POLL, 0
        while True:
            names = self._place.store.names(folder)
            if MANIFEST in names and self._is_of(writing):
                self._is_there(writing.step)
                return
            found = receipts_of(writing.name, names)
            if len(found) == writing.size:
                try:
                    read = [self._place.read_json(f"{folder}/{name}") for name in found]
                except FileNotFoundError:
                    continue  # somebody made the manifest, and has tidied up
                self._make_manifest(writing, read)
                return
            # Who comes last makes the manifest; only rank 0 sees to it that somebody does.
            if writing.rank != 0:
                return
            if len(found) > there:
                began, there = self._clock(), len(found)
            broken = writing.lost() or self._world != writing.world
            if self._clock() - began > (LOST_PATIENCE if broken else PATIENCE):
                missing = writing.size - len(found)
                reason = f"{missing} of {writing.size} ranks did not write their share"
                self._failed(writing.step, reason)
                return
            self._sleep(wait)
            wait = min(2 * wait, LONGEST_POLL)

    def _make_manifest(self, writing: Writing, receipts: Sequence[dict[str, Any]]) -> None:
        for receipt in receipts:
            require_signed(receipt, "a rank's receipt")
        layouts = {receipt.get("layout") for receipt in receipts}
        if len(layouts) != 1 or "skeleton" not in receipts[0]:
            self._failed(writing.step, "the ranks' states differ in shape")
            return
        if len({receipt.get("digest") for receipt in receipts}) != 1:
            self._failed(writing.step, "the ranks do not hold the same state")
            return
        if superseded(self._run_dir, writing.world):
            self._failed(writing.step, "a later leader has formed another world")
            return
        shards = [ShardFile.from_json(one) for receipt in receipts for one in receipt["shards"]]
        manifest = Manifest(
            writing.step,
            writing.name,
            receipts[0]["skeleton"],
            writing.layout.slots,
            shards,
            receipts[0]["about"],
        )
        created = commit(self._place, manifest, damaged=writing.step in self._damaged)
        self._is_there(writing.step)
        if not created:
            return  # this step has its checkpoint
        self._report(
            "checkpoint_committed",
            step=writing.step,
            bytes=manifest.bytes,
            seconds=round(self._clock() - writing.began, 4),
        )
        self._leftovers.tidy(writing.step, self._retention, self.good)
