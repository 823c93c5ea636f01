"""What a keeper does with the process of a torchrun script: decided here, and nothing else. Pure.

A keeper lives in a slot through all generations of the world, like any worker. It trains nothing
itself: in each generation it has a process of its own that runs the script, and that never sees
another one::

    IDLE ──Form──► FORMED ──Start──► RUNNING ──it ends by itself──► OVER
     ▲               │                  │                             │
     │               └──Pause, Abort────┼──Pause, Abort───────────────┘
     │                                  ▼
     └─────nothing is left of it──── ENDING

The keeper says that it has stopped only when it was asked to, and when nothing of its process is
left: not itself, nor what it has started. So no process of an old generation can disturb a new one,
or hold a GPU's memory.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from trainer.protocol import messages
from trainer.protocol.messages import FromWorker, ToWorker
from trainer.rundir.usererror import Message
from trainer.worker.process_group import MANY

ABORT_GRACE = 1.0  # seconds for a process to end whose world is broken off
REST_GRACE = 3.0  # seconds for what a process has started, when it has ended itself


class Phase(enum.Enum):
    """Where a keeper is."""

    IDLE = "idle"
    FORMED = "formed"
    RUNNING = "running"
    OVER = "over"
    ENDING = "ending"


@dataclass(frozen=True)
class Spawn:
    """Start the process, with these variables beside the keeper's own."""

    variables: dict[str, str]


@dataclass(frozen=True)
class Terminate:
    """Send SIGTERM to the process, or, if it has ended, to what it has started.

    Not to all in one: a process that saves when it is asked to end still needs its helpers, and
    torch's DataLoader raises in the midst of it when a signal ends a worker.
    """


@dataclass(frozen=True)
class Kill:
    """Kill them, whatever they do."""


@dataclass(frozen=True)
class Leave:
    """The keeper's own life is over."""


Action = Spawn | Terminate | Kill | Leave | FromWorker


class Keeping:
    """One keeper's state.

    Attributes:
        phase: see the module.
        kill_at: when what still lives is to be killed, in seconds of the clock; None for never.
    """

    def __init__(self) -> None:
        self.phase = Phase.IDLE
        self.kill_at: float | None = None
        self._form = messages.Form(0, {}, ())
        self._rank = -1
        self._since = 0.0
        self._leaving = False
        self._whole = True
        self._step = 0

    @property
    def waiting(self) -> bool:
        """Whether nothing is done here but to end; before the start, files are restored."""
        return self.phase is Phase.ENDING

    def take(self, order: ToWorker, now: float, *, frozen: bool = False) -> list[Action]:
        """Takes an order of the agent at ``now``; ``frozen``: a signal has stopped the process."""
        match order:
            case messages.Form():
                self.phase, self._form, self._whole = Phase.FORMED, order, True
                self._rank, self._step = int(order.env.get("RANK", -1)), 0
            case messages.Start(generation, address, port):
                if self.phase is Phase.FORMED and generation == self._form.generation:
                    return self._start(address, port, now)
            case messages.Pause(generation, grace):
                return self._end(generation, 0.0 if frozen else grace, now)
            case messages.Abort(generation):
                return self._end(generation, 0.0 if frozen else ABORT_GRACE, now)
            case messages.Save():
                return [messages.Saved(0)]
            case messages.Exit():
                return self._leave(now)
        return []

    def exited(self, code: int, reason: str, now: float) -> list[Action]:
        """The process has ended; what it has started may live on.

        Args:
            code: its exit code; a signal's number, negative.
            reason: its traceback, or what can be said of its end.
            now: the time.
        """
        self._whole = code == 0
        if self.phase is Phase.ENDING:
            until = now + REST_GRACE
            self.kill_at = until if self.kill_at is None else min(self.kill_at, until)
            return [Terminate()]
        if self.phase is not Phase.RUNNING:
            return []
        generation = self._form.generation
        self.phase = Phase.OVER
        if code == 0:
            return [messages.Done(generation, self._rank, self._step, {}, by_all=True)]
        return [messages.Exited(generation, self._rank, code, now - self._since, reason)]

    @property
    def reports(self) -> bool:
        """Whether its process speaks for all: it is that of rank 0."""
        return self._rank == 0

    def progressed(self, step: int, metrics: dict[str, float]) -> list[Action]:
        """The process says that so many steps are completed."""
        if self.phase is Phase.IDLE or step < 1:
            return []
        self._step = step
        generation = self._form.generation
        values = {name: [value] for name, value in metrics.items()}
        return [
            messages.Progress(generation, step),
            messages.Steps(generation, step, values or {"step": [float(step)]}),
        ]

    def trains_by_itself(self, *, grouped: bool) -> list[Action]:
        """The process has trained, and has formed no process group, or has never used it."""
        size = self._form.env.get("WORLD_SIZE", "")
        if self.phase is not Phase.RUNNING or not size.isdecimal():
            return []
        if grouped:
            text = Message(
                "SW5029",
                f"rank 0 has made {MANY} steps of an optimizer, and nothing was ever sent through "
                f"its process group: each of the {size} processes trains a model of its own, "
                "unless it sums gradients in another way; wrap the model (DistributedDataParallel, "
                "fully_shard), or sum the gradients by all_reduce()",
            )
        else:
            text = Message(
                "SW5025",
                f"rank 0 has made a step and has formed no process group: each of the {size} "
                "processes trains a model of its own; call torch.distributed.init_process_group() "
                "and wrap the model, or have one process: pools with one machine and slots: 1",
            )
        fields = {"generation": self._form.generation, "world_size": int(size)}
        return [messages.Event("no_group", {**fields, "reason": str(text)})]

    def gone(self) -> list[Action]:
        """Nothing of the process is left, or there was none."""
        if self.phase is not Phase.ENDING:
            return []
        self.phase, self.kill_at = Phase.IDLE, None
        if self._leaving:
            return [Leave()]
        return [messages.Stopped(self._form.generation, self._step, True, "", self._whole)]

    def tick(self, now: float) -> list[Action]:
        """Time passes."""
        if self.kill_at is None or now < self.kill_at:
            return []
        self.kill_at = None
        return [Kill()]

    def _start(self, address: str, port: int, now: float) -> list[Action]:
        self.phase, self._since = Phase.RUNNING, now
        master = {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
        began = messages.Started(
            self._form.generation, self._rank, step=0, idle=None, bytes=0, seconds=0.0
        )
        return [Spawn({**self._form.env, **master}), began]

    def _end(self, generation: int, grace: float, now: float) -> list[Action]:
        if self.phase is Phase.IDLE or generation != self._form.generation:
            return []
        until = now + grace
        if self.phase is Phase.ENDING:
            self.kill_at = until if self.kill_at is None else min(self.kill_at, until)
            return []
        self.phase, self.kill_at = Phase.ENDING, until
        return [Terminate()]

    def _leave(self, now: float) -> list[Action]:
        if self.phase is Phase.IDLE:
            return [Leave()]
        self._leaving = True
        return self._end(self._form.generation, ABORT_GRACE, now)
