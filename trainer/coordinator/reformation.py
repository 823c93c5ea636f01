"""Why one generation ends and the next forms, what the pause costs, and if worlds thrive. Pure."""

from __future__ import annotations

from typing import Any

from trainer.protocol.world import World
from trainer.rundir.events import CAUSES, Cause
from trainer.rundir.usererror import Message


def told_of(world: World) -> dict[str, Any]:
    """What events say of a world: it forms, or a new leader takes it over."""
    members = [member.replica for member in world.members]
    return {"generation": world.generation, "world_size": world.size, "members": members}


class Reformation:
    """The account of a re-formation: from the first cause to the first step after it.

    Args:
        cause: why the first generation will form.

    Attributes:
        cause: the weightiest reason for the generation to come.
        setbacks: how many worlds in a row have been lost before they completed a step.
    """

    def __init__(self, cause: Cause) -> None:
        self.cause = cause
        self.setbacks = 0
        self._fruitful = False  # whether the newest world has completed a step
        self._before = 0  # steps completed when it formed
        self._idle: float | None = None  # seconds that its members have gone without a step
        self._why = ""  # in a worker's words, why a world was lost
        self._told = False  # whether the first of them has said so

    def blame(self, cause: Cause) -> Cause:
        """Takes in one more reason. Returns the weightiest."""
        self.cause = max(self.cause, cause, key=CAUSES.index)
        return self.cause

    def set_back(self, why: str = "") -> None:
        """The newest world is broken off, because of ``why``, if a worker has said that."""
        self.setbacks += not self._fruitful
        self._why = why or self._why

    def hopeless(self, limit: int) -> str | None:
        """Why no further world is formed; None if one may still thrive."""
        if self.setbacks < limit:
            return None
        told = f"{self.setbacks} worlds in a row were lost before they completed a step"
        why = f"; the last that a worker said of it: {self._why}" if self._why else ""
        return str(Message("SW5002", f"{told}{why}; more is in the replicas' logs (swell logs)"))

    def form(self, world: World, steps: int) -> dict[str, Any]:
        """A world forms, after so many steps. Returns what ``generation_formed`` says of it."""
        self._fruitful, self._before, self._idle, self._told = False, steps, None, False
        return {**told_of(world), "cause": self.cause, "step": steps}

    def start(self, idle: float | None, first: bool) -> None:
        """A member of it has started; ``idle`` seconds after its last step, if it had one.

        What the ``first`` says counts more: it measures the time to the first step, too.
        """
        if idle is not None and not self._told:
            self._idle, self._told = idle if first else max(self._idle or 0.0, idle), first

    def resumed(self, step: int) -> dict[str, Any]:
        """What the event ``resumed`` says of it when all have started, from ``step``."""
        return {
            "cause": self.cause,
            "step": step,
            "lost_steps": max(0, self._before - step),
            "seconds": round(self._idle, 4) if self._idle else None,
        }

    def end(self) -> None:
        """The world runs; what comes next has the lightest cause until another is known."""
        self.cause = CAUSES[0]

    def advance(self) -> None:
        """The newest world has completed a step."""
        self._fruitful = True
        self.setbacks = 0
