"""Membership's events and commands: what happens to members, and what is to be done about it.

Not the signals of UNIX; those of a VM's notice are in ``trainer.agent.preemption``. The coordinator
passes events to ``trainer.coordinator.membership`` and carries out the commands it returns. Both
are plain values; ``trainer.protocol.wire`` turns them into messages and back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from trainer.protocol.world import MemberId, World
from trainer.rundir.events import Cause

# --- what happens -----------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """What a machine has shown before it took part.

    ``memory`` is in bytes per second, ``matmul`` in floating-point operations per second;
    ``failed`` says why there is neither.
    """

    memory: float = 0.0
    matmul: float = 0.0
    failed: str = ""


@dataclass(frozen=True)
class Joined:
    """An agent connected; ``world`` is the newest that its workers entered, if they did.

    They may be in it still: an earlier leader formed it, or the connection was broken. ``age`` is
    for how long the agent has lived, in seconds; 0 where nobody knows. ``shown`` is None where
    nothing was asked for.
    """

    member: MemberId
    slots: int
    world: World | None = None
    age: float = 0.0
    shown: Shown | None = None


@dataclass(frozen=True)
class Ready:
    """Every slot of the member holds a warm worker that waits for a generation."""

    member: MemberId


@dataclass(frozen=True)
class Started:
    """All workers of the member are in the world and hold its state.

    ``idle`` is the time in seconds since their last completed step, if they had one.
    """

    member: MemberId
    generation: int
    step: int
    idle: float | None = None


@dataclass(frozen=True)
class Progress:
    """A sign of life of an agent, and what it sees of its workers in the generation.

    ``quiet`` is how long, in seconds, the quietest of them has not shown life; ``frozen``
    whether one, also outside a generation, is stopped by a signal; ``waiting`` whether all
    wait in a collective; ``received`` how many bytes of state have come in; ``saving`` how
    long, in seconds, one of them needs for its share of a checkpoint, 0 where that is not known.
    """

    member: MemberId
    generation: int = 0
    step: int = 0
    quiet: float = 0.0
    frozen: bool = False
    waiting: bool = False
    received: int = 0
    saving: float = 0.0


@dataclass(frozen=True)
class Stopped:
    """All workers of the member left the generation and wait for the next.

    ``clean`` is whether they hold the state of ``step``; ``failed`` is why, if nobody asked them
    to. ``cause`` is "repeat" or "rollback" then, if it was they who wanted another world.
    """

    member: MemberId
    generation: int
    step: int
    clean: bool = True
    failed: str = ""
    cause: Cause = "break"


@dataclass(frozen=True)
class Failure:
    """How a worker failed, as its agent sees it (see ``trainer.coordinator.blame``).

    ``rank`` is -1 before its first world, ``step`` how many steps it had completed, ``trained``
    whether this process had completed one; ``samples`` are ids of the ``count`` that it had in
    its step, as far as they are known.
    """

    kind: str
    rank: int
    step: int
    reason: str
    trained: bool = True
    samples: tuple[int, ...] = ()
    count: int = 0


@dataclass(frozen=True)
class Crashed:
    """A worker of the member died. ``spare`` is whether a warm one takes its place at once.

    ``failure`` is what tells whose fault it is; None where it is nobody's, or was told before. If
    the member has other workers in the generation, Stopped follows when they have left it; Ready
    follows when every slot has a warm worker again.
    """

    member: MemberId
    reason: str
    spare: bool = False
    failure: Failure | None = None


@dataclass(frozen=True)
class Drain:
    """The member was given notice: it must leave within ``deadline`` seconds.

    Of one that is not wanted any more it is math.inf, and it stays out; or, with ``again``, its
    replica is started anew, on another machine.
    """

    member: MemberId
    reason: str
    deadline: float
    again: bool = False

    @property
    def seconds(self) -> float | None:
        """The deadline as it is told, if there is one."""
        return round(self.deadline, 3) if math.isfinite(self.deadline) else None


@dataclass(frozen=True)
class Left:
    """The connection to the member is gone."""

    member: MemberId
    reason: str


@dataclass(frozen=True)
class Done:
    """Training is complete, as rank 0 says; ``by_all``: of a script, as each ``rank`` does.

    ``unsaved`` says what is not saved.
    """

    member: MemberId
    generation: int
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    unsaved: str = ""
    by_all: bool = False
    rank: int = 0


@dataclass(frozen=True)
class TaskFailed:
    """The user's code raised, in ``generation``, or outside one (0).

    ``rank``, ``kind`` and ``trained`` are as in Failure.
    """

    member: MemberId
    rank: int
    step: int
    reason: str
    kind: str = "program"
    trained: bool = True
    generation: int = 0


@dataclass(frozen=True)
class RankFailed:
    """A torchrun script's process has failed, and nobody had asked it to end.

    ``code`` is its exit code, a signal's number negative; ``seconds`` how long it lived.
    """

    member: MemberId
    generation: int
    rank: int
    code: int
    seconds: float
    reason: str


@dataclass(frozen=True)
class Proved:
    """The member has tried to connect to ``peer``, which is of another job, as it was asked to.

    ``failed`` is why it could not; empty if it could. ``latency`` is in seconds, there and back,
    ``bandwidth`` in bytes per second, over one connection.
    """

    member: MemberId
    peer: MemberId
    failed: str = ""
    address: str = ""
    peer_address: str = ""
    latency: float = 0.0
    bandwidth: float = 0.0

    @property
    def both(self) -> tuple[MemberId, MemberId]:
        """Those of whom it tells something."""
        return self.member, self.peer


@dataclass(frozen=True)
class Bounded:
    """From now on no world is to have more than so many workers."""

    max_workers: int


@dataclass(frozen=True)
class Tick:
    """Time passed."""


Event = (
    Joined
    | Ready
    | Started
    | Progress
    | Stopped
    | Crashed
    | Drain
    | Left
    | Done
    | TaskFailed
    | RankFailed
    | Proved
    | Bounded
    | Tick
)

# --- what to do -------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """Tell the members of ``world`` to form it.

    ``careful`` is whether workers are to say before each step which samples they take.
    """

    world: World
    careful: bool = False


@dataclass(frozen=True)
class Pause:
    """Ask the world to leave together after its running step.

    The processes of a torchrun script have ``grace`` seconds to end in.
    """

    world: World
    grace: float = 0.0


@dataclass(frozen=True)
class Abort:
    """Tell every member to break off the generation at once."""

    world: World


@dataclass(frozen=True)
class Replace:
    """Tell a member to kill its workers, which do not stop, and to start afresh."""

    member: MemberId


@dataclass(frozen=True)
class Save:
    """Tell a member to write its share of a checkpoint of the state it holds.

    It is the ``rank``-th of ``size`` who do, and has ``deadline`` seconds for it.
    """

    member: MemberId
    rank: int = 0
    size: int = 1
    deadline: float = math.inf


@dataclass(frozen=True)
class Release:
    """Tell a member that it is out, and why.

    ``rejoin`` is whether it may come back at once, as a new member: it was given up, and may be
    alive. One that was drained may not, because its VM is about to be taken away. With ``broken``
    its machine is at fault: its replica is started anew, or, without ``rejoin``, it stays out.
    """

    member: MemberId
    reason: str
    rejoin: bool
    broken: bool = False


@dataclass(frozen=True)
class Prove:
    """Ask a member to show that it can connect to ``peer``, which is of another job."""

    member: MemberId
    peer: MemberId


@dataclass(frozen=True)
class Finish:
    """End the run."""

    state: str
    reason: str
    step: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Emit:
    """Put an event on record, for people and programs (see trainer.rundir.events)."""

    event: str
    fields: dict[str, Any]


Command = Form | Pause | Abort | Replace | Save | Release | Prove | Finish | Emit


class Orders(list[Command]):
    """The commands of one step, gathered in order."""

    def emit(self, event: str, **fields: Any) -> None:
        """Appends an ``Emit``; fields that are None are left out."""
        known = {key: value for key, value in fields.items() if value is not None}
        self.append(Emit(event, known))
