"""The checkpoints of what this worker holds: when one is due, who writes which part, what it says.

It serves a loop over steps and an Elastic Horovod script alike: both come to places where all
ranks hold the same state, and both ask there whether a checkpoint is due. Four worlds write::

    1-7        all ranks, after the same step              save, finish
    1-7-left   those who are left of it, between worlds    save_left
    1-7-alone  rank 0, at the end, if another was lost      finish
    1-7-best   rank 0, when an evaluation was the best     evaluated

No two have the same name, so what they write is never mixed (see trainer.checkpoints.manifest).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.manifest import committed_steps, folder_of
from trainer.checkpoints.restore import ORIGIN, find_start, shared
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.rollbacks import Rollbacks, go_back
from trainer.checkpoints.schedule import Schedule
from trainer.engine.generations import Generations
from trainer.engine.portable import Portable
from trainer.engine.transfer import WorldExchange
from trainer.protocol.messages import Save
from trainer.protocol.session import Session
from trainer.rundir.names import UNSAVED
from trainer.rundir.retry import Backoff, patiently
from trainer.rundir.usererror import Message

END_AGAIN = Backoff(first=2.0, longest=8.0, limit=20.0)


class Saving:
    """Saves one state, and says what a run begins from. Outside a run it does nothing.

    Args:
        session: says when, where to, and what a new run begins from.
        generations: which world this worker is in.
        state: what is saved.
        about: what a manifest says besides: plain values, called when they are needed.
        digest: of the state, below 2**64: a checkpoint is valid only if all ranks' are equal.
        again: how long the end of a run is tried again, if the store does not take it.
    """

    def __init__(
        self,
        session: Session,
        generations: Generations,
        state: Portable,
        about: Callable[[], dict[str, Any]],
        digest: Callable[[], int],
        again: Backoff = END_AGAIN,
    ) -> None:
        self._session = session
        self._generations = generations
        self._state = state
        self._about = about
        self._digest = digest
        self._again = again
        self._checkpointer = Checkpointer.of(session, generations.emit)
        self._schedule = Schedule(session.checkpoint.every, session.checkpoint.every_steps)
        self._retention = Retention(best=session.checkpoint.keep_best)
        self._measured = False  # whether it is known, or was said, what the best goes by
        self._values: dict[int, float] = {}  # by step: of what was the best when it was evaluated

    @property
    def seconds(self) -> float:
        """How long this rank needs for its share; 0 where that is not known."""
        return 0.0 if self._checkpointer is None else self._checkpointer.seconds

    def start(self) -> tuple[Any, int] | None:
        """Returns the tree that the run goes on from, and its step; None if it begins anew.

        A collective. While the store is away all ranks wait for it; see
        trainer.checkpoints.restore for what it raises.
        """
        if self._checkpointer is None:
            return None
        emit, collective = self._generations.emit, self._generations.channel.collective
        find = functools.partial(
            find_start,
            self._session.checkpoint_dirs,
            self._session.checkpoint.start_from,
            emit,
            WorldExchange(collective),
            self._state.prepare(),
        )
        found = patiently(find, emit)
        if found is not None:
            tree, step = found
            self._schedule.saved(step)
            begins = isinstance(tree, dict) and tree.get(ORIGIN) is not None
            if not begins:  # those after it have been tried first
                exchange, place = WorldExchange(collective), self._session.checkpoint_dirs[0]
                after = lambda: [one for one in committed_steps(place) if one > step]  # noqa: E731
                damaged = patiently(lambda: shared(exchange, after), emit)
                self._checkpointer.begins(step, damaged)
        return found

    def avoided(self) -> tuple[int, ...]:
        """The steps that are left out since the run has gone back once. A collective."""
        run_dir = self._session.run_dir
        if run_dir is None:
            return ()
        exchange = WorldExchange(self._generations.channel.collective)
        find = lambda: shared(exchange, lambda: Rollbacks.of(run_dir).left_out)  # noqa: E731
        return tuple(patiently(find, self._generations.emit))

    def good(self, step: int) -> None:
        """Checkpoints up to ``step`` are of states that could be trained on."""
        if self._checkpointer is not None:
            self._checkpointer.good = step

    def go_back(self, failed: int, good: int) -> tuple[int | None, str]:
        """Makes the newest good checkpoint the newest; see ``trainer.checkpoints.rollbacks``.

        A collective. What is being written is waited for, and so is the store.
        """
        checkpointer, run_dir = self._checkpointer, self._session.run_dir
        if checkpointer is None or run_dir is None:
            return None, "there are no checkpoints outside a run"
        checkpointer.flush()
        exchange = WorldExchange(self._generations.channel.collective)
        places = self._session.checkpoint_dirs
        to, why = patiently(
            lambda: go_back(run_dir, places, exchange, failed, good), self._generations.emit
        )
        if to is not None:
            checkpointer.went_back(to)
            self._values.clear()  # the best may be among those that are gone
        return to, why

    def newest_until(self, step: int) -> str:
        """The URL of the newest checkpoint up to ``step``; "" if there is none that is known of.

        What is being written is waited for.
        """
        if self._checkpointer is None:
            return ""
        self._checkpointer.flush()
        found: list[tuple[int, str]] = []
        with suppress(OSError):
            for place in self._session.checkpoint_dirs:
                found += [(one, place.url) for one in committed_steps(place) if one <= step]
        newest, url = max(found, default=(0, ""))
        return f"{url}/{folder_of(newest)}" if url else ""

    def enter(self) -> None:
        """This worker is in another world: ranks of the one before may be gone."""
        if self._checkpointer is not None:
            self._checkpointer.enter(self._generations.world)

    def due(self, step: int) -> bool:
        """Whether the state after ``step`` is to be saved. Rank 0 says; others never say so."""
        return (
            self._checkpointer is not None
            and self._generations.rank == 0
            and self._schedule.due(step, self._checkpointer.failures > 0)
            and not self._checkpointer.busy(self._generations.world)
        )

    def save(self, *, wait: bool = False) -> bool:
        """Has this rank's share written; all ranks call it after the same step.

        Returns when the share is copied, or with ``wait`` when the checkpoint is there or has
        failed. Says whether it is being written, as far as this rank knows. Raises TypeError,
        naming the place, for state that a checkpoint cannot hold.
        """
        generations = self._generations
        saved = self._save(
            rank=generations.rank,
            size=generations.size,
            wait=wait,
            lost=functools.partial(generations.channel.aborted, generations.number),
        )
        if saved:
            self._schedule.saved(self._state.step)
        return saved

    def evaluated(self, metrics: Mapping[str, float], saved: bool = False) -> None:
        """The state as it is was evaluated; all ranks may say so, between two steps.

        If it is the best so far, rank 0 saves all of it by itself: others need not know. A
        checkpoint of it that is being written, or is there, is told of the metrics.

        Args:
            metrics: of this state; none if it was not evaluated after all.
            saved: whether it is being saved together with them.
        """
        checkpointer, step = self._checkpointer, self._state.step
        if checkpointer is None or self._generations.rank != 0 or not metrics:
            return
        saved = saved or checkpointer.evaluated(step, metrics)
        self._require_measured(metrics)
        self._values.pop(step, None)  # it may have been said to be better before
        value = self._retention.value(metrics)
        if value is None or value <= self._best:
            return
        self._values[step] = value
        if not saved and self._save("-best", until=math.inf, beside=True):
            self._schedule.saved(step)

    def _require_measured(self, metrics: Mapping[str, Any]) -> None:
        """Says once that nobody measures what ``keep_best`` goes by: it may have another name."""
        wanted = self._retention.best.removeprefix("-")
        if not wanted or self._measured:
            return
        self._measured = True
        if wanted not in metrics:
            there = ", ".join(sorted(metrics)) or "nothing"
            said = Message(
                "SW5163",
                f"keep_best goes by {wanted}, and none was reported so far; reported was {there}: "
                "no checkpoint is the best yet",
            )
            self._generations.emit("no_best", step=self._state.step, reason=str(said))

    @property
    def _best(self) -> float:
        """The best of what this rank knows to be saved, or to be on its way."""
        lost = self._checkpointer.unwritten if self._checkpointer is not None else ()
        return max((v for step, v in self._values.items() if step not in lost), default=-math.inf)

    def finish(self) -> None:
        """Saves the last state, and waits for it; all ranks call it, in the same world.

        Rank 0 holds all of the state: if another was lost before it had written its share, rank 0
        writes everything. If that fails, it is tried again for a while; see ``unsaved``.
        """
        if self._generations.rank == 0 and self._checkpointer is not None:
            self._require_measured(self._about().get("metrics", {}))
        self.save(wait=True)
        if self._generations.rank == 0 and self._save("-alone", wait=True):
            for wait in self._again.waits():
                if not self._is_lost():
                    break
                time.sleep(wait)
                self._save("-alone", wait=True)
        if self._generations.rank == 0 and self._checkpointer is not None:
            self._checkpointer.tidy()

    def unsaved(self) -> str:
        """Says that the newest state has no checkpoint, and what to do; empty if it has one."""
        if not self._is_lost():
            return ""
        assert self._checkpointer is not None
        newest = max(self._committed(), default=0)
        step = self._state.step
        text = (
            f"training is complete, but its end is not saved: {self._checkpointer.failure}; "
            f"the steps {newest + 1:,} to {step:,} are lost"
        )
        if newest:
            url = f"{self._session.checkpoint_dirs[0].url}/{folder_of(newest)}"
            text += f"; make room, and take them again with swell launch JOB --from {url}"
        return str(Message(UNSAVED, text))

    def _is_lost(self) -> bool:
        checkpointer = self._checkpointer
        if checkpointer is None or not checkpointer.failures:
            return False
        return checkpointer.committed != self._state.step

    def _committed(self) -> list[int]:
        try:
            return committed_steps(self._session.checkpoint_dirs[0])
        except OSError:
            assert self._checkpointer is not None
            return list(filter(None, [self._checkpointer.committed]))

    def save_left(self, order: Save) -> None:
        """Between worlds, too few are left: those who hold this state save it together.

        Who has completed the checkpoint says so; if nobody can, the first of them does.
        """
        step = self._state.step

        def told() -> None:
            unsaved = self._why_unsaved(step)
            if not unsaved or order.rank == 0:
                self._generations.saved(step, unsaved)

        how = {"rank": order.rank, "size": order.size, "until": order.until}
        if not self._save("-left", then=told, **how):
            told()

    def _why_unsaved(self, step: int) -> str:
        """Why the state of ``step`` is in no checkpoint that is known here; "" if it is in one."""
        checkpointer = self._checkpointer
        if checkpointer is None or checkpointer.committed == step:
            return ""
        return checkpointer.failure if checkpointer.failures else "there was no time for it"

    def close(self) -> None:
        """Waits until everything is written, or has failed; nothing can be saved any more."""
        if self._checkpointer is not None:
            self._checkpointer.close()

    def _save(self, suffix: str = "", **how: Any) -> bool:
        """Saves the state unless its step has a checkpoint. Returns whether it is being written."""
        checkpointer, step = self._checkpointer, self._state.step
        if checkpointer is None or checkpointer.committed == step:
            return False
        world, about = f"{self._generations.world}{suffix}", self._whole_about()
        tree, digest = self._state.export(), self._digest()
        return checkpointer.save(tree, step, world=world, about=about, digest=digest, **how)

    def _whole_about(self) -> dict[str, Any]:
        return {
            "generation": self._generations.number,
            "leader_term": self._generations.leader_term,
            "job_sha256": self._session.job_sha256,
            **self._about(),
        }
