"""Which worlds a case is trained in, one after another, and how each member learns of them.

In a changing world one of three members is killed in the middle of a step, as its gradients go
out; the other two take that step again, go on, and are asked to pause; a newcomer that has
nothing joins them, in a rank by chance.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from tests.conformance.cases import Case
from tests.conformance.training import STEPS, STEPS_PER_EPOCH
from trainer.protocol.messages import Exit, Form, FromWorker, Profile, Started, Stopped, ToWorker

NEWCOMER = 3  # the members before are there from the beginning


@dataclass(frozen=True)
class Stage:
    """One world of a journey.

    Attributes:
        members: in order of rank.
        first: the first step that it takes.
        asks: the rank that asks for a pause in step ``last``; None for none.
        dies: the rank that is killed in step ``last``; None for none.
        last: the last step that it begins.
    """

    members: tuple[int, ...]
    first: int = 1
    last: int = STEPS
    asks: int | None = None
    dies: int | None = None


def journey(case: Case) -> list[Stage]:
    """The worlds of a case."""
    if case.world != "changing":
        return [Stage(tuple(range(int(case.world))))]
    chance = random.Random(str(case))
    three = chance.sample(range(3), 3)
    dies = chance.randrange(3)
    two = [member for member in three if member != three[dies]]
    again = chance.sample([*two, NEWCOMER], 3)
    broken = chance.randint(2, STEPS_PER_EPOCH + 1)
    paused = chance.randint(broken + 1, STEPS - 1)
    return [
        Stage(tuple(three), 1, broken, dies=dies),
        Stage(tuple(two), broken, paused, asks=chance.randrange(2)),
        Stage(tuple(again), paused + 1),
    ]


@dataclass(frozen=True)
class Stay:
    """A member's part in one world.

    Attributes:
        form: the order to join it.
        asks: the step in which it asks for a pause; 0 for none.
        dies: the step in which it is killed; 0 for none.
    """

    form: Form
    asks: int = 0
    dies: int = 0


@dataclass
class Itinerary:
    """A worker's channel (see trainer.protocol.channel) that knows beforehand what comes.

    Attributes:
        stays: those that are still to come.
        started: the (generation, rank, first step) of the worlds that were joined.
        failed: why worlds were left in which a collective failed, by their generation.
    """

    stays: Sequence[Stay]
    started: list[tuple[int, int, int]] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    _stay: Stay | None = None
    _step: int = 0

    def next(self) -> ToWorker:
        if not self.stays:
            return Exit()
        self._stay, *self.stays = self.stays
        return self._stay.form

    def pause_requested(self) -> bool:
        """Asked once in every step, as its last gradients go out."""
        assert self._stay is not None
        self._step += 1
        if self._step == self._stay.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._step == self._stay.asks

    def aborted(self, generation: int) -> bool:
        return False

    def profiles(self) -> tuple[Profile, ...]:
        return ()

    def on_abort(self, callback: Callable[[], None] | None) -> None:
        return None

    def collective(self) -> AbstractContextManager[None]:
        return nullcontext()

    def send(self, message: FromWorker) -> None:
        match message:
            case Started(generation, rank, step):
                self.started.append((generation, rank, step + 1))
                self._step = step
            case Stopped(generation, failed=why) if why:
                self.failed[generation] = why
