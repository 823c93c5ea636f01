"""Loops of a user's own, run to their end by all workers of one world."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tests.conformance.journey import Itinerary, Stage, Stay
from tests.trainer.engine.plain import Run, Swell, plainly, require_same
from tests.trainer.ranks import PATIENCE, Meeting, Process, form, workers, world_of
from trainer.protocol.messages import Form

# A worker dies, another asks to leave, and one comes, in twelve steps.
CHANGING = [
    Stage((0, 1, 2), last=4, dies=1),
    Stage((2, 0), first=4, last=8, asks=0),
    Stage((0, 3, 2), first=9),
]

Loop = Callable[[list[Any]], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a loop on one rank.

    Attributes:
        log: what the loop appended to the list that it was given.
        error: the type and text of what it raised; "" if it ended well.
    """

    log: list[Any]
    error: str


def trained(size: int, loop: Loop) -> list[Outcome]:
    """Runs ``loop(log)``, which trains by ``trainer.elastic``, on each rank of a world.

    Returns each rank's outcome, in order of rank.
    """
    with workers(_follow, *[[loop]] * size) as members, Meeting(world_of(*[1] * size)) as meeting:
        form(meeting, members)
        for member in members:
            member.leave()
        return [member.process.result() for member in members]


def travelled(
    stages: Sequence[Stage],
    loop: Loop,
    killed: Collection[int] = (),
    patience: float = PATIENCE,
) -> dict[int, Outcome]:
    """Runs ``loop(log)`` in one world after another. Returns what became of who is left.

    Members in ``killed``, besides those whose stage says so, kill themselves. It fails when it
    takes more seconds than ``patience``.
    """
    stays: dict[int, list[Stay]] = {}
    with ExitStack() as stack:
        for generation, stage in enumerate(stages, 1):
            world = world_of(*[1] * len(stage.members), generation=generation)
            meeting = stack.enter_context(Meeting(world))
            for rank, member in enumerate(stage.members):
                stay = Stay(
                    Form(generation, dict(meeting.environments[rank]), ("127.0.0.1",)),
                    asks=stage.last if rank == stage.asks else 0,
                    dies=stage.last if rank == stage.dies else 0,
                )
                stays.setdefault(member, []).append(stay)
        gone = {*killed, *(one.members[one.dies] for one in stages if one.dies is not None)}
        processes = {member: Process(_travel, its, loop) for member, its in stays.items()}
        for process in processes.values():
            stack.callback(process.close)
        stayed = [member for member in processes if member not in gone]
        return {member: processes[member].result(patience) for member in stayed}


def _travel(stays: list[Stay], loop: Loop) -> Outcome:
    return _follow(Itinerary(stays), loop)


def _follow(channel: Any, loop: Loop) -> Outcome:
    from trainer import elastic
    from trainer.protocol.channel import AgentChannel

    AgentChannel._inherited = channel
    log: list[Any] = []
    error = ""
    try:
        loop(log)
        running = elastic.running()
        if running is not None and running.complete:
            running.done()
    except SystemExit:
        pass
    except Exception as found:
        error = f"{type(found).__name__}: {found}"
    return Outcome(log, error)


def alike(run: Run, size: int) -> int:
    """How many ranks of a world train with training code what a plain loop does.

    Fails with what differs where one does not.
    """
    expected = plainly(run)
    outcomes = trained(size, functools.partial(run, Swell))
    for outcome in outcomes:
        assert outcome.error == ""
        require_same(outcome.log, expected)
    return len(outcomes)
