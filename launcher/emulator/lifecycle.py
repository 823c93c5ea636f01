"""What happens to a job and its replicas: a pure state machine.

It does no I/O and knows no clock. Methods tell it what happened; each returns the
commands to carry out. The rules are those of Vertex AI:

- RUNNING means that all replicas were up.
- The job succeeds when the primary (the first replica) exits with 0, whatever the others do.
- A replica that ends with 134, 139 or by a signal is restarted under its name, up to
  ``max_restarts`` times. Any other exit code than 0 fails the job.
- What the Spot market takes away does not fail the job; it goes on with what is left.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from launcher.emulator.customjobs import JobState

MAX_RESTARTS = 5
MAYBE_TRANSIENT = frozenset({128 + signal.SIGABRT, 128 + signal.SIGSEGV})

# Codes of google.rpc.Code, in a job's error.
CANCELLED = 1
INVALID_ARGUMENT = 3
INTERNAL = 13
UNAVAILABLE = 14


class Refused(Exception):
    """What was asked for does not fit the state; the message says why."""


class ReplicaState(Enum):
    """Where a replica is in its life."""

    WAITING = "WAITING"  # no VM yet
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    NOTICED = "NOTICED"  # told that it will be preempted; still running
    PREEMPTED = "PREEMPTED"
    VANISHED = "VANISHED"
    EXITED = "EXITED"


AWAY = frozenset({ReplicaState.NOTICED, ReplicaState.PREEMPTED, ReplicaState.VANISHED})


@dataclass
class Replica:
    """One replica; ``incarnation`` counts its starts from 1."""

    state: ReplicaState = ReplicaState.WAITING
    incarnation: int = 0
    restarts: int = 0  # for its own errors, not the market's


@dataclass(frozen=True)
class JobError:
    """Why a job failed: a google.rpc.Code and a sentence."""

    code: int
    message: str


@dataclass(frozen=True)
class Start:
    """Start the replica's VM, after killing whatever is left of an earlier one."""

    replica: str
    incarnation: int


@dataclass(frozen=True)
class Notify:
    """Tell the VM that it will be preempted, and report ``notice_over`` after ``notice``."""

    replica: str
    incarnation: int
    notice: timedelta


@dataclass(frozen=True)
class Kill:
    """Kill the VM at once."""

    replica: str


@dataclass(frozen=True)
class Freeze:
    """Make the VM vanish: it neither answers nor closes a connection any more."""

    replica: str


@dataclass(frozen=True)
class StopAll:
    """Shut all VMs down, and report ``stopped`` when none is left."""


Command = Start | Notify | Kill | Freeze | StopAll


class Lifecycle:
    """The state of one job.

    Args:
        replicas: names; the first is the primary.
        max_restarts: how often one replica is restarted for its own errors.
    """

    def __init__(self, replicas: Sequence[str], max_restarts: int = MAX_RESTARTS) -> None:
        self.state = JobState.QUEUED
        self.error: JobError | None = None
        self.replicas = {name: Replica() for name in replicas}
        self._primary = replicas[0]
        self._max_restarts = max_restarts
        self._ending: tuple[JobState, JobError | None] | None = None
        self._early_exits: list[tuple[str, int, int]] = []

    def begin(self) -> list[Command]:
        """Capacity was found: the job is PENDING until all replicas are up."""
        if self.state is not JobState.QUEUED:
            return []
        self.state = JobState.PENDING
        return [self._start(name) for name in self.replicas]

    def started(self, name: str, incarnation: int) -> list[Command]:
        """A VM runs its command."""
        replica = self.replicas[name]
        if incarnation == replica.incarnation and replica.state is ReplicaState.STARTING:
            replica.state = ReplicaState.RUNNING
        if self.state is not JobState.PENDING or any(
            replica.state in (ReplicaState.WAITING, ReplicaState.STARTING)
            for replica in self.replicas.values()
        ):
            return []
        self.state = JobState.RUNNING
        early, self._early_exits = self._early_exits, []
        return [command for exit in early for command in self.exited(*exit)]

    def not_started(self, name: str, incarnation: int, reason: str) -> list[Command]:
        """A VM could not be started."""
        return self._end(
            JobState.FAILED, JobError(INTERNAL, f"Replica {name} could not be started: {reason}")
        )

    def exited(self, name: str, incarnation: int, code: int) -> list[Command]:
        """A VM's command ended; ``code`` is negative when a signal ended it.

        A replica that exits during its notice still counts as one that exited, unless the
        signal of the notice ended it.
        """
        replica = self.replicas[name]
        if incarnation != replica.incarnation:
            return []
        if self.state is JobState.PENDING:
            self._early_exits.append((name, incarnation, code))
            return []
        if replica.state in (ReplicaState.PREEMPTED, ReplicaState.VANISHED):
            return []
        by_signal = code < 0 or code in MAYBE_TRANSIENT
        if replica.state is ReplicaState.NOTICED and (by_signal or code == 128 + signal.SIGTERM):
            replica.state = ReplicaState.PREEMPTED
            return []
        replica.state = ReplicaState.EXITED
        if self._ending:
            return []
        if code == 0:
            return self._end(JobState.SUCCEEDED, None) if name == self._primary else []
        if not by_signal:
            return self._end(JobState.FAILED, JobError(INVALID_ARGUMENT, _failed(name, code)))
        if replica.restarts >= self._max_restarts:
            message = f"{_failed(name, code)} It had been restarted {replica.restarts} times."
            return self._end(JobState.FAILED, JobError(INVALID_ARGUMENT, message))
        replica.restarts += 1
        return [self._start(name)]

    def preempt(self, name: str, notice: timedelta) -> list[Command]:
        """The market takes a VM, with notice."""
        replica = self._running(name)
        replica.state = ReplicaState.NOTICED
        return [Notify(name, replica.incarnation, notice)]

    def notice_over(self, name: str, incarnation: int) -> list[Command]:
        """The time between the notice and the VM's end has passed."""
        replica = self.replicas[name]
        if incarnation != replica.incarnation or replica.state is not ReplicaState.NOTICED:
            return []
        replica.state = ReplicaState.PREEMPTED
        return [Kill(name)]

    def vanish(self, name: str) -> list[Command]:
        """The market takes a VM, and nobody is told."""
        self._running(name).state = ReplicaState.VANISHED
        return [Freeze(name)]

    def restore(self, name: str) -> list[Command]:
        """The market gives a VM back: a new one under the old name."""
        replica = self._replica(name)
        if replica.state not in AWAY:
            raise Refused(f"Replica {name} is {replica.state.value}: there is nothing to restore.")
        return [self._start(name)]

    def cancel(self) -> list[Command]:
        """The user wants the job to end."""
        if self.state.terminal:
            raise Refused(f"The job is in the final state {self.state.wire_name}.")
        if self._ending:
            return []
        self.state = JobState.CANCELLING
        return self._end(
            JobState.CANCELLED, JobError(CANCELLED, "The job was cancelled by its user.")
        )

    def fail(self, code: int, message: str) -> list[Command]:
        """The job cannot go on, for a reason outside its replicas."""
        return self._end(JobState.FAILED, JobError(code, message))

    def stopped(self) -> list[Command]:
        """All VMs are gone."""
        if self._ending:
            self.state, self.error = self._ending
        return []

    @property
    def ending(self) -> bool:
        """Whether the end is decided, even if VMs are still being shut down."""
        return self._ending is not None

    def _end(self, state: JobState, error: JobError | None) -> list[Command]:
        if self._ending:
            return []
        self._ending = state, error
        return [StopAll()]

    def _start(self, name: str) -> Start:
        replica = self.replicas[name]
        replica.state = ReplicaState.STARTING
        replica.incarnation += 1
        return Start(name, replica.incarnation)

    def _replica(self, name: str) -> Replica:
        if self.state is not JobState.RUNNING or self._ending:
            raise Refused(f"The job is not running: it is {self.state.wire_name}.")
        return self.replicas[name]

    def _running(self, name: str) -> Replica:
        replica = self._replica(name)
        if replica.state is not ReplicaState.RUNNING:
            raise Refused(f"Replica {name} is not running: it is {replica.state.value}.")
        return replica


def _failed(name: str, code: int) -> str:
    if code >= 0:
        return f"Replica {name} exited with status {code}; its log says more."
    return f"Replica {name} was ended by signal {-code}; its log says more."
