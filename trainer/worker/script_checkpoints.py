"""Checkpoints of a script's ``hvd.elastic`` state: written at its commits, by the job's schedule.

A commit is a place that all ranks come to with the same state, so nothing else has to be
agreed on; that one is due travels with the commit's own allreduce.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from trainer.checkpoints.checkpoint import Checkpointer
from trainer.checkpoints.restore import WEIGHTS_ONLY, Report, find_start
from trainer.checkpoints.schedule import Schedule
from trainer.engine.generations import Generations
from trainer.engine.transfer import WorldExchange
from trainer.protocol.channel import Channel, Save
from trainer.protocol.session import Session
from trainer.rundir.retry import patiently


class Commits:
    """The checkpoints of one state.

    Args:
        state: a TorchState or another ObjectState.
        checkpointer: writes them.
        session: says when, and where a new run begins.
        generations: which world this process is in.
        channel: of this process.
        report: called with events of trainer.rundir.events.
    """

    def __init__(
        self,
        state: Any,
        checkpointer: Checkpointer,
        session: Session,
        generations: Generations,
        channel: Channel,
        report: Report,
    ) -> None:
        self.state = state
        self._checkpointer = checkpointer
        self._session = session
        self._schedule = Schedule(session.checkpoint.every, session.checkpoint.every_steps)
        self._generations = generations
        self._channel = channel
        self._report = report

    @property
    def seconds(self) -> float:
        """How long this rank needs for its share of a checkpoint; 0 where it is not known."""
        return self._checkpointer.seconds

    def due(self, step: int) -> bool:
        """Whether the state after ``step`` is to be written; to be asked on rank 0."""
        return self._schedule.due(
            step, self._checkpointer.failures > 0
        ) and not self._checkpointer.busy(self._generations.world)

    def write(self, step: int, *, wait: bool = False) -> None:
        """Has this rank's share written; all ranks do so after the same step.

        Raises TypeError, naming the place, for state that a checkpoint cannot hold.
        """
        if self._checkpointer.committed == step:
            return
        generations = self._generations
        saved = self._checkpointer.save(
            self._export(step),
            step,
            rank=generations.rank,
            size=generations.size,
            world=generations.world,
            about=self._about(),
            wait=wait,
            lost=functools.partial(self._channel.aborted, generations.number),
        )
        if saved:
            self._schedule.saved(step)

    def write_share(self, step: int, order: Save) -> None:
        """Between worlds, too few are left: those who hold this state write it together."""
        if self._checkpointer.committed != step:
            self._checkpointer.save(
                self._export(step),
                step,
                rank=order.rank,
                size=order.size,
                world=f"{self._generations.world}-left",
                about=self._about(),
                until=order.until,
            )

    def restore(self) -> int | None:
        """Takes over the newest checkpoint. A collective. Returns its step, None without one.

        Raises ValueError when it is not one of such a state; see also
        trainer.checkpoints.restore.
        """
        exchange = WorldExchange(self._channel.collective)
        cpu = torch.device("cpu")
        found = patiently(
            lambda: find_start(
                self._session.checkpoint_dirs,
                self._session.checkpoint.start_from,
                self._report,
                exchange,
                cpu,
            ),
            self._report,
        )
        if found is None:
            return None
        tree, step = found
        if not isinstance(tree, dict) or "parts" not in tree or "values" not in tree:
            raise ValueError(f"the checkpoint of step {step} does not hold a script's state")
        self._load(tree)
        self._schedule.saved(step)
        return step

    def enter(self) -> None:
        """This process is in another world: ranks of the one before may be gone."""
        self._checkpointer.enter(self._generations.world)

    def _load(self, tree: dict[str, Any]) -> None:
        handlers = _handlers(self.state)
        whole = not tree.get(WEIGHTS_ONLY)
        differ = sorted({*handlers} ^ {*tree["parts"]} | {*_values(self.state)} ^ {*tree["values"]})
        if differ and whole:
            raise ValueError(f"the checkpoint and this script's state differ in {differ}")
        for name, part in tree["parts"].items():
            value = handlers[name].value if name in handlers else None
            if value is not None and (whole or isinstance(value, torch.nn.Module)):
                value.load_state_dict(part)
        for name, value in tree["values"].items() if whole else ():
            setattr(self.state, name, value)

    def _export(self, step: int) -> dict[str, Any]:
        handlers = _handlers(self.state)
        return {
            "step": step,
            "parts": {name: one.value.state_dict() for name, one in handlers.items()},
            "values": {name: getattr(self.state, name) for name in _values(self.state)},
        }

    def _about(self) -> dict[str, Any]:
        return {
            "generation": self._generations.number,
            "leader_term": self._generations.leader_term,
            "job_sha256": self._session.job_sha256,
        }


def _handlers(state: Any) -> dict[str, Any]:
    """What a TorchState holds by ``state_dict``; an ObjectState has no such parts."""
    return dict(getattr(state, "_handlers", {}))


def _values(state: Any) -> list[str]:
    """The names of the plain values that an ObjectState commits."""
    return list(state._saved_state)
