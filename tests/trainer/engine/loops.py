"""Loops of a user's own, run to their end by all workers of one world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.trainer.ranks import Meeting, form, workers, world_of
from trainer.protocol.messages import Exit

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
            member.send(Exit())  # read when the world is over
        return [member.process.result() for member in members]


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
