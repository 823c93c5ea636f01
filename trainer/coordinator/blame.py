"""Who is at fault when a worker fails: its program, its machine, or the newcomer that it is. Pure.

Whether the program is at fault decides whether the run ends: what the program does wrong it does
wrong again, and what one machine does wrong costs that machine alone. The first row that fits::

    what failed      how often, and where                         at fault   what follows
    ───────────────  ───────────────────────────────────────────  ─────────  ──────────────────
    program          in training, or nobody else holds a state    program    the run ends
    program          before it has trained, while others train    newcomer   counts against it
    raised           nobody else holds a state                    program    the run ends
    raised           before it has trained                        newcomer   counts against it
    machine, unsure, on all machines of a world alike             program    the run ends
    raised
    machine          else                                         machine    counts against it
    unsure, raised   the third time before a step is passed       program    the run ends
    raised           else                                         script     counts against it
    unsure           else                                         machine    counts against it
    crash            before it has trained, the first at a step   newcomer   counts against it
    crash            the third time before a step is passed       program    the run ends
    crash            else                                         nobody     another process
    killed, again    the tenth time before a step is passed       program    the run ends
    killed, again    else                                         nobody     another process

``machine`` is what hardware says of itself: a memory error of the GPU, a bus error. ``unsure`` is
what either may cause: any other error of the GPU, memory or disk that is full, a data loader that
dies. ``raised`` is any other error that a script of Elastic Horovod raises: Horovod leaves the host
and goes on, for it may be a file or a connection of that machine's. ``crash`` is the end of a
process in native code. ``killed`` is one that was killed without a word: by somebody, or by what
limits its memory without saying so. ``again`` is one that has ended so that another takes its
place: a collective of its own has failed. Before the first step of a run nobody holds a state; an
error while loading is a newcomer's then, too, once another member could load.

A crash counts only where no peer was lost in its world, for a peer's death can abort others; one
that ended to be replaced is no such peer, and counts only where nothing else has happened. The
first one at a step is a newcomer's own, if others train: what comes after it at that step may have
taken its place. What was counted is forgotten when the run has passed the furthest step that it had
ever begun.

What counts against a machine: the first time another process takes the place of the one that
failed; the second time the replica is started again, on another machine where the cloud has one;
the third time the run goes on without it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["", "program", "machine", "unsure", "raised", "crash", "killed", "again"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Whose = Literal["program", "machine", "newcomer", "script", "nobody"]
Then = Literal["process", "replica", "out"]

STRIKES = 3  # failures at one step that are no accident
KILLS = 10  # the same, of those that others may have caused
NAMED = 20  # sample ids in a message


@dataclass(frozen=True)
class Failure:
    """How one worker failed.

    Attributes:
        kind: see above; "" where it is nobody's fault, as for a process that was killed.
        replica: where.
        rank: in its world; below 0 before it was in one.
        step: how many steps it had completed.
        reason: what it said, or how it ended.
        trained: whether this process had completed a step.
        samples: ids of those that it had in the step, the first of them; unknown if there are none.
        count: how many samples it had.
    """

    kind: Kind
    replica: str
    rank: int
    step: int
    reason: str
    trained: bool = True
    samples: tuple[int, ...] = ()
    count: int = 0

    @property
    def where(self) -> str:
        """Which worker it was, and how far; it may have been in the next step, or evaluated."""
        if self.rank < 0:
            return f"a worker of {self.replica} while it loaded"
        return f"rank {self.rank} ({self.replica}) {after(self.step)}"


def whose(failure: Failure, *, alike: bool, held: bool, times: int) -> Whose:
    """Who is at fault, by the table above.

    Args:
        failure: what happened.
        alike: whether all machines of a world of several have failed in it, none of them by loss.
        held: whether another member holds the state of a completed step, or could load.
        times: failures of its sort before the furthest step is passed, this one among them; 0 for
            the first crash, of a process that has not trained.
    """
    match failure.kind:
        case "program":
            return "newcomer" if held and not failure.trained else "program"
        case "machine":
            return "program" if alike else "machine"
        case "unsure":
            return "program" if alike or times >= STRIKES else "machine"
        case "raised" if not held or alike or times >= STRIKES:
            return "program"
        case "raised":
            return "script" if failure.trained else "newcomer"
        case "crash" if held and not failure.trained and not times:
            return "newcomer"
        case "crash":
            return "program" if times >= STRIKES else "nobody"
        case "killed" | "again":
            return "program" if times >= KILLS else "nobody"
    return "nobody"


def after(step: int) -> str:
    """How far a worker was that had completed so many steps."""
    return f"after step {step}" if step else "before it had completed a step"


def then(faults: int) -> Then:
    """What follows from so many faults of one machine."""
    return "process" if faults <= 1 else "replica" if faults == 2 else "out"


class Strikes:
    """Failures that are counted until the run has passed the furthest step it had begun."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []
        self._furthest = 0

    @property
    def any(self) -> bool:
        """Whether there are some: workers say then which samples they are about to take."""
        return bool(self._failures)

    @property
    def times(self) -> int:
        """How many there are."""
        return len(self._failures)

    def add(self, failures: Collection[Failure]) -> None:
        """Takes in what happened in one world; it counts once, however many failed."""
        if failures:
            first = min(failures, key=lambda one: (not one.samples, one.rank))
            self._failures.append(first)
            self._furthest = max(self._furthest, *(one.step + 1 for one in failures))

    def reached(self, step: int) -> None:
        """So many steps are completed."""
        if step >= self._furthest:
            self.forget()

    def forget(self) -> None:
        """None of them counts any more."""
        self._failures.clear()

    def told(self) -> str:
        """What the end of the run says of them."""
        last = self._failures[-1]
        samples = next((one for one in reversed(self._failures) if one.samples), last)
        ids = ", ".join(map(str, samples.samples[:NAMED]))
        more = "" if samples.count <= NAMED else f" and {samples.count - NAMED} more"
        had = f"; it had the samples {ids}{more}" if ids else ""
        # Without samples it may not have been in the step yet: it evaluated, or saved.
        after = "" if ids else f", or what follows step {last.step},"
        alone = ", and no other had been lost" if last.kind == "crash" else ""
        return (
            f"step {last.step + 1}{after} has ended a worker's process {self.times} times{alone}: "
            f"{last.reason}, in rank {last.rank} ({last.replica}){had}"
        )
