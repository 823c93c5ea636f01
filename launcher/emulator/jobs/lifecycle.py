"""What happens to a job and its replicas: a pure state machine.

It does no I/O and knows no clock. Methods tell it what happened; each returns the
commands to carry out. ``wanted`` says which replicas wait for a VM; who has VMs to give
answers with ``granted``, or with ``refused`` when a try to restart the job found none.
The rules are those that Vertex AI documents:

- QUEUED until there are VMs for all replicas, PENDING until all are up, then RUNNING.
- The job succeeds when the primary (the first replica) exits with 0, whatever the others do.
- SIGABRT and SIGSEGV (exit codes 6, 134, 11, 139) may be transient: the whole job is
  restarted, up to three times. The end by any other signal is not known to be permanent:
  the replica is restarted under its name, up to five times, and then the whole job is, up to
  three times. Any other exit code than 0 fails the job; so does 137, out of memory.
- ``restart_job_on_worker_restart`` restarts the whole job with every replica that is restarted;
  ``disable_retries`` switches that off, and the job's three retries.
- A Spot VM that is taken does not fail the job. What becomes of the others is not documented:
  with ``Survivors.KEEP`` they go on, with ``Survivors.RESTART`` the whole job starts anew, and
  with ``Survivors.FAIL`` it fails with STOCKOUT, as for any other stockout. A job none of whose
  VMs is left is given up as STOCKOUT after six restarts that found no VM.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from enum import Enum

from launcher.emulator.resources.customjobs import JobState, Json

MAX_RESTARTS = 5  # of one replica in one try of the job
MAX_RETRIES = 3  # of the whole job
MAX_STOCKOUTS = 6  # restarts in a row that find no VM

# Codes of google.rpc.Code, in a job's error.
CANCELLED = 1
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
RESOURCE_EXHAUSTED = 8
INTERNAL = 13
UNAVAILABLE = 14

OUT_OF_MEMORY = 128 + signal.SIGKILL
MAYBE_TRANSIENT = frozenset({signal.SIGABRT, signal.SIGSEGV})


class Refused(Exception):
    """What was asked for does not fit the state; the message says why."""


class Survivors(str, Enum):
    """What becomes of a job's other replicas when the market takes a VM."""

    KEEP = "keep"
    RESTART = "restart"
    FAIL = "fail"


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
LIVING = frozenset({ReplicaState.STARTING, ReplicaState.RUNNING})  # what the market can take
UP = frozenset({ReplicaState.RUNNING, ReplicaState.EXITED})


@dataclass
class Replica:
    """One replica; ``incarnation`` counts its starts from 1."""

    state: ReplicaState = ReplicaState.WAITING
    incarnation: int = 0
    restarts: int = 0  # for its own errors, not the market's
    withheld: bool = False  # taken on somebody's order, and not to come back before ``restore``


@dataclass(frozen=True)
class JobError:
    """Why a job failed: a google.rpc.Code and a sentence."""

    code: int
    message: str


@dataclass(frozen=True)
class Rules:
    """What a job's scheduling and the market say about restarts.

    Args:
        region: for the message of a STOCKOUT.
        restart_job_on_worker_restart: as in the job's scheduling.
        disable_retries: as in the job's scheduling.
        survivors: what becomes of the other replicas when the market takes a VM.
    """

    region: str = "local"
    restart_job_on_worker_restart: bool = False
    disable_retries: bool = False
    survivors: Survivors = Survivors.KEEP


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
class Stop:
    """Shut the VM down: it may clean up for a moment."""

    replica: str


@dataclass(frozen=True)
class Freeze:
    """Make the VM vanish: it neither answers nor closes a connection any more."""

    replica: str


@dataclass(frozen=True)
class StopAll:
    """Shut all VMs down for good, and report ``stopped`` when none is left."""


Command = Start | Notify | Kill | Stop | Freeze | StopAll


@dataclass(frozen=True)
class Wanted:
    """Replicas that wait for a VM: all of them get one ``together``, or each for itself."""

    replicas: tuple[str, ...] = field(default=())
    together: bool = False


class Lifecycle:
    """The state of one job.

    Args:
        replicas: names; the first is the primary.
        rules: what the job's scheduling and the market say about restarts.
    """

    def __init__(self, replicas: Sequence[str], rules: Rules | None = None) -> None:
        self.state = JobState.QUEUED
        self.error: JobError | None = None
        self.replicas = {name: Replica() for name in replicas}
        self._rules = rules or Rules()
        self._primary = replicas[0]
        self._retries = 0
        self._stockouts = 0
        self._ending: tuple[JobState, JobError | None] | None = None
        self._early_exits: list[tuple[str, int, int]] = []

    @property
    def ending(self) -> bool:
        """Whether the end is decided, even if VMs are still being shut down."""
        return self._ending is not None

    @property
    def wanted(self) -> Wanted:
        """The replicas that wait for a VM now."""
        if self._ending:
            return Wanted()
        waiting = [name for name, it in self.replicas.items() if it.state is ReplicaState.WAITING]
        if waiting:  # the job starts, or starts anew: all replicas or none
            withheld = any(replica.withheld for replica in self.replicas.values())
            return Wanted(() if withheld else tuple(waiting), together=True)
        lost = (ReplicaState.PREEMPTED, ReplicaState.VANISHED)
        return Wanted(
            tuple(
                name for name, it in self.replicas.items() if it.state in lost and not it.withheld
            )
        )

    @property
    def stranded(self) -> bool:
        """Whether none of the job's VMs is left, and the job waits for at least one."""
        waits = not self._ending and any(
            replica.state in (ReplicaState.WAITING, ReplicaState.PREEMPTED, ReplicaState.VANISHED)
            for replica in self.replicas.values()
        )
        held = (*LIVING, ReplicaState.NOTICED)
        return waits and not any(replica.state in held for replica in self.replicas.values())

    def granted(self, names: Sequence[str]) -> list[Command]:
        """There are VMs for these of the wanted replicas."""
        wanted = self.wanted
        assert set(names) <= set(wanted.replicas), "only what is wanted can be granted"
        assert not wanted.together or set(names) == set(wanted.replicas), "all together"
        if names:
            self._stockouts = 0
        if self.state is JobState.QUEUED and names:
            self.state = JobState.PENDING
        return [self._start(name) for name in names]

    def refused(self) -> list[Command]:
        """A restart of a stranded job has found no VM."""
        if not self.stranded:
            return []
        self._stockouts += 1
        if self._stockouts < MAX_STOCKOUTS:
            return []
        return self._stockout()

    def started(self, name: str, incarnation: int) -> list[Command]:
        """A VM runs its command."""
        replica = self.replicas[name]
        if incarnation == replica.incarnation and replica.state is ReplicaState.STARTING:
            replica.state = ReplicaState.RUNNING
        if (
            self.state is not JobState.PENDING
            or self._ending
            or any(replica.state not in UP for replica in self.replicas.values())
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
        if replica.state not in (*LIVING, ReplicaState.NOTICED):
            return []  # the emulator itself has ended it
        if self.state is JobState.PENDING:
            self._early_exits.append((name, incarnation, code))
            return []
        if replica.state is ReplicaState.NOTICED and _signal(code) is not None:
            return self._lost(name)
        replica.state = ReplicaState.EXITED
        if self._ending:
            return []
        if code == 0:
            return self._end(JobState.SUCCEEDED, None) if name == self._primary else []
        return self._failed(name, code)

    def preempt(self, name: str, notice: timedelta | None) -> list[Command]:
        """Somebody orders that a VM be taken, silently without ``notice``.

        Raises Refused when it does not run.
        """
        if self.state is not JobState.RUNNING or self._ending:
            raise Refused(f"The job is not running: it is {self.state.wire_name}.")
        replica = self.replicas[name]
        if replica.state is not ReplicaState.RUNNING:
            raise Refused(f"Replica {name} is not running: it is {replica.state.value}.")
        replica.withheld = True
        return self.taken(name, notice)

    def taken(self, name: str, notice: timedelta | None) -> list[Command]:
        """The market takes a VM, silently without ``notice``."""
        replica = self.replicas[name]
        if replica.state not in LIVING or self._ending:
            return []
        if replica.state is ReplicaState.STARTING:  # nobody is there yet to be told or missed
            return [Kill(name), *self._lost(name)]
        if notice is None:
            restarts = self._lost(name, ReplicaState.VANISHED)
            return restarts or [Freeze(name)]
        replica.state = ReplicaState.NOTICED
        return [Notify(name, replica.incarnation, notice)]

    def notice_over(self, name: str, incarnation: int) -> list[Command]:
        """The time between the notice and the VM's end has passed."""
        replica = self.replicas[name]
        if incarnation != replica.incarnation or replica.state is not ReplicaState.NOTICED:
            return []
        return [Kill(name), *self._lost(name)]

    def restore(self, name: str) -> list[Command]:
        """What was taken on somebody's order may come back; Refused when nothing was."""
        replica = self.replicas[name]
        if self._ending or self.state.terminal:
            raise Refused(f"The job is not running: it is {self.state.wire_name}.")
        if not replica.withheld:
            raise Refused(f"Replica {name} is {replica.state.value}: there is nothing to restore.")
        replica.withheld = False
        if replica.state is not ReplicaState.NOTICED:
            return []
        replica.state = ReplicaState.PREEMPTED  # its time is over, whatever it was told
        return [Kill(name)]

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

    def expire(self, message: str) -> list[Command]:
        """The job has waited in the queue for as long as it was willing to."""
        if self.state is not JobState.QUEUED:
            return []
        return self._end(JobState.EXPIRED, JobError(DEADLINE_EXCEEDED, message))

    def stopped(self) -> list[Command]:
        """All VMs are gone."""
        if self._ending:
            self.state, self.error = self._ending
        return []

    def kept(self) -> Json:
        """Returns all that the state machine knows, as JSON, for ``resume``."""
        end, error = self._ending or (None, None)
        return {
            "state": self.state.value,
            "replicas": {
                name: {**asdict(replica), "state": replica.state.value}
                for name, replica in self.replicas.items()
            },
            "retries": self._retries,
            "stockouts": self._stockouts,
            "ending": end and [end.value, error and asdict(error)],
        }

    def resume(self, kept: Json, begun: Mapping[str, int]) -> list[Command]:
        """Goes on where another one has stopped, some of whose commands were not carried out.

        Args:
            kept: all that it knew.
            begun: the newest incarnation of each replica that was started. ``exited`` tells
                afterwards which of them have ended, those too of which the other one knew.

        Whoever carries out the commands knows how much is left of each notice.
        """
        self.state = JobState(kept["state"])
        for name, its in kept["replicas"].items():
            self.replicas[name] = Replica(**{**its, "state": ReplicaState(its["state"])})
        self._retries, self._stockouts = kept["retries"], kept["stockouts"]
        if kept["ending"]:
            end, error = kept["ending"]
            self._ending = JobState(end), JobError(**error) if error else None
            return [StopAll()]
        commands: list[Command] = []
        for name in self.replicas:
            if not self.ending:  # an end that was only just found may have decided that
                commands += self._resumed(name, begun)
        return commands

    def _resumed(self, name: str, begun: Mapping[str, int]) -> list[Command]:
        replica = self.replicas[name]
        current = begun.get(name) == replica.incarnation
        match replica.state:
            case ReplicaState.STARTING:
                if current:
                    return self.started(name, replica.incarnation)
                return [Start(name, replica.incarnation)]
            case ReplicaState.RUNNING | ReplicaState.NOTICED if not current:  # no trace is left
                return self.exited(name, replica.incarnation, -signal.SIGKILL)
            case ReplicaState.VANISHED if current:
                return [Freeze(name)]
            case ReplicaState.WAITING if name in begun:
                return [Stop(name)]
            case ReplicaState.PREEMPTED | ReplicaState.EXITED if name in begun:
                return [Kill(name)]
        return []

    def _failed(self, name: str, code: int) -> list[Command]:
        """A command has ended with an error."""
        replica, number = self.replicas[name], _signal(code)
        message = _sentence(name, code)
        if number in MAYBE_TRANSIENT:
            return self._retry(message)
        if number is None or code == OUT_OF_MEMORY:
            return self._end(JobState.FAILED, JobError(INVALID_ARGUMENT, message))
        if replica.restarts >= MAX_RESTARTS:
            return self._retry(f"{message} It had been restarted {replica.restarts} times.")
        replica.restarts += 1
        if self._rules.restart_job_on_worker_restart and not self._rules.disable_retries:
            return self._start_anew()
        return [self._start(name)]  # on the same VM

    def _retry(self, message: str) -> list[Command]:
        """The job has failed for a reason that may be gone next time."""
        if self._rules.disable_retries:
            return self._end(JobState.FAILED, JobError(INVALID_ARGUMENT, message))
        if self._retries >= MAX_RETRIES:
            message = f"{message} The job had been restarted {self._retries} times."
            return self._end(JobState.FAILED, JobError(INVALID_ARGUMENT, message))
        self._retries += 1
        for replica in self.replicas.values():
            replica.restarts = 0
        return self._start_anew()

    def _lost(self, name: str, state: ReplicaState = ReplicaState.PREEMPTED) -> list[Command]:
        """The market has a VM back. Returns what that means for the other replicas."""
        self.replicas[name].state = state
        if self._ending:
            return []
        if self._rules.survivors is Survivors.FAIL:  # what was taken cannot be replaced at once
            return self._stockout()
        whole_job = self._rules.restart_job_on_worker_restart and not self._rules.disable_retries
        if whole_job or self._rules.survivors is Survivors.RESTART:
            return self._start_anew()
        return []

    def _stockout(self) -> list[Command]:
        message = (
            f"Resources are insufficient in region: {self._rules.region}. "
            "Try a different region or use a different accelerator."
        )
        return self._end(JobState.FAILED, JobError(RESOURCE_EXHAUSTED, message))

    def _start_anew(self) -> list[Command]:
        """Shuts every VM down, so that the whole job can start once more."""
        self.state = JobState.PENDING
        self._early_exits.clear()
        commands: list[Command] = []
        for name, replica in self.replicas.items():
            if replica.state in (*LIVING, ReplicaState.NOTICED):
                commands.append(Stop(name))
            elif replica.state is ReplicaState.VANISHED:
                commands.append(Kill(name))  # nothing in it can hear
            replica.state = ReplicaState.WAITING
        return commands

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


def _signal(code: int) -> int | None:
    """The signal that an exit code stands for, as a shell writes it or the kernel says it."""
    if code < 0:
        return -code
    if code in MAYBE_TRANSIENT:
        return code
    return code - 128 if 128 < code < 128 + signal.NSIG else None


def _sentence(name: str, code: int) -> str:
    if code == OUT_OF_MEMORY:
        return f"Replica {name} ran out of memory and exited with status {code}."
    if code >= 0:
        return f"Replica {name} exited with status {code}; its log says more."
    return f"Replica {name} was ended by signal {-code}; its log says more."
