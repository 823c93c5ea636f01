"""A task as one rank of a small world trains it for a few steps, and what is seen of it."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from trainer.checkpoints.tree import flatten, unflatten
from trainer.engine.mistake import Mistake
from trainer.engine.step import Step
from trainer.loop import Loop, TaskState
from trainer.protocol.messages import Event, Exit, Form, FromWorker, Profile, Steps, ToWorker
from trainer.protocol.session import Session
from trainer.rundir.usererror import Message
from trainer.task import Task


@dataclass
class Seen:
    """What one rank has seen.

    Attributes:
        losses: of each step.
        figures: of the evaluation after the last one.
        findings: what is wrong.
        units: (samples of a unit, why), once steps go by units.
        seconds: of each step; of it for ``data``.
        memory: bytes of the process at most, and of the GPU.
    """

    losses: list[float] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    findings: list[Message] = field(default_factory=list)
    units: tuple[int, str] | None = None
    seconds: list[float] = field(default_factory=list)
    data: list[float] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)


class Visit:
    """A worker's channel (see trainer.protocol.channel) for one world.

    Args:
        env: of this rank.
        seen: takes what the worker says.
    """

    def __init__(self, env: dict[str, str], seen: Seen) -> None:
        self._orders: list[ToWorker] = [Form(1, env, ("127.0.0.1",))]
        self._seen = seen

    def next(self) -> ToWorker:
        """Joins the world, and then exits."""
        return self._orders.pop(0) if self._orders else Exit()

    def pause_requested(self) -> bool:
        """Never."""
        return False

    def aborted(self, generation: int) -> bool:
        """Never."""
        return False

    def profiles(self) -> tuple[Profile, ...]:
        """Never."""
        return ()

    def on_abort(self, callback: Callable[[], None] | None) -> None:
        """There is none."""

    def collective(self) -> AbstractContextManager[None]:
        """Nobody watches."""
        return nullcontext()

    def send(self, message: FromWorker) -> None:
        """Notes losses and figures."""
        match message:
            case Steps(metrics=metrics):
                self._seen.losses += metrics["loss"]
            case Event("units", fields):
                self._seen.units = (fields["unit"], fields["reason"])


class Watched(Loop):
    """A loop that notes what it does."""

    def __init__(self, task: Task, env: dict[str, str], steps: int) -> None:
        self._seen = seen = Seen()
        super().__init__(task, Visit(env, seen), Session(), most=steps)
        self._began = time.perf_counter()

    def run_and_see(self) -> Seen:
        """Trains, and returns what was seen; what the engine refuses is a finding."""
        try:
            self._seen.figures = self.run()
        except Mistake as mistake:
            self._seen.findings.append(Message(mistake.id, str(mistake)))
        self._seen.memory = _memory()
        return self._seen

    def _take(self, step: Step) -> None:
        self._began = time.perf_counter()
        super()._take(step)
        self._seen.seconds.append(time.perf_counter() - self._began)
        self._seen.data.append(step.data_wait or 0.0)

    def _update(self, step: Step) -> None:
        named = self.state.model.named_parameters()
        without = [name for name, p in named if p.requires_grad and p.grad is None]
        if without and step.number == 1:
            self._seen.findings.append(
                Message(
                    "SW6204",
                    f"{', '.join(without[:5])} had no gradient in the first step: the loss does "
                    "not depend on it, and it is not trained; use it, or freeze it "
                    "(requires_grad_(False))",
                )
            )
        super()._update(step)


def train(make: Callable[[], Task], env: dict[str, str], steps: int) -> Seen:
    """Trains a task for a few steps as the rank that ``env`` says, and returns what was seen."""
    return Watched(make(), env, steps).run_and_see()


def saved(make: Callable[[], Task], steps: int) -> list[Message]:
    """Trains a task alone, and has another one take over what a checkpoint holds of it."""
    loop = Watched(make(), {}, steps)
    if loop.run_and_see().findings:
        return []
    other = TaskState(make(), total_steps=loop.newest().total)
    other.prepare()
    try:
        other.load(unflatten(*flatten(loop.state.export())))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        return [Message("SW6210", f"what a checkpoint holds cannot be loaded: {error}")]
    finally:
        other.let_go()
    own, loaded = dict(loop.state.digests()), dict(other.digests())
    lost = [name for name in own if own[name] != loaded.get(name)]
    if lost:
        return [
            Message(
                "SW6210",
                f"{', '.join(lost[:5])} is not what it was after a checkpoint is loaded: its "
                "state_dict() and load_state_dict() do not carry all of it",
            )
        ]
    return []


def _memory() -> tuple[int, int]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak, torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
