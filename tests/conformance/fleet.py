"""Processes that train one case after another, in worlds that are formed for each.

A process takes long to start and a world a twentieth of a second to form, so it is the processes
that are kept. Whoever was killed, and everybody after a failure, is replaced.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import traceback
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

from tests.conformance import plain, swell
from tests.conformance.cases import Case
from tests.conformance.journey import NEWCOMER, Itinerary, Stage, Stay, journey
from tests.conformance.report import Report
from tests.conformance.training import Trained
from tests.trainer.ranks import PATIENCE, Meeting, Process, world_of
from trainer.protocol.messages import Form

# Seconds. Members wait in their next world for those who still train elsewhere.
PATIENT = {"HOROVOD_GLOO_TIMEOUT_SECONDS": "600"}


class Member:
    """A process that calls what it is sent."""

    def __init__(self) -> None:
        self.answers, theirs = multiprocessing.get_context("forkserver").Pipe()
        self._stacks, stacks = multiprocessing.get_context("forkserver").Pipe(duplex=False)
        self._process = Process(_serve, theirs, stacks)
        theirs.close()
        stacks.close()

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Has it call ``function(*args)``; what that returned or raised is its next answer."""
        self.answers.send((function, args))

    def stacks(self) -> str:
        """Where its threads are at the moment."""
        os.kill(self._process.pid, signal.SIGUSR1)
        text = b""
        while wait([self._stacks], 1.0) and (more := os.read(self._stacks.fileno(), 2**16)):
            text += more
        return text.decode()

    def close(self) -> None:
        """Leaves nothing of it behind."""
        self._process.close()
        self.answers.close()
        self._stacks.close()


class Fleet:
    """As many members as a case needs. ``close`` must be called."""

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}

    def close(self) -> None:
        """Leaves nothing of it behind."""
        for number in list(self._members):
            self._members.pop(number).close()

    def plainly(self, case: Case) -> Trained:
        """Trains a case as plain PyTorch, in one of the processes."""
        self._member(0).call(plain.train, case)
        trained: Trained = self._answers({0})[0]
        return trained

    def elastically(self, case: Case) -> dict[int, Report]:
        """Trains a case with Swell. Returns what the members tell that are left in the end.

        Raises AssertionError when one of them raised something, or hangs.
        """
        stages = journey(case)
        with ExitStack() as stack:
            stays: dict[int, list[Stay]] = defaultdict(list)
            for generation, stage in enumerate(stages, 1):
                world = world_of(*[1] * len(stage.members), generation=generation)
                meeting = stack.enter_context(Meeting(world))
                for rank, member in enumerate(stage.members):
                    env = dict(meeting.environments[rank])
                    if stage.dies is None:
                        env |= PATIENT
                    stays[member].append(
                        Stay(
                            Form(generation, env, ("127.0.0.1",)),
                            asks=stage.last if rank == stage.asks else 0,
                            dies=stage.last if rank == stage.dies else 0,
                        )
                    )
            for number, its in stays.items():
                self._member(number).call(travel, case, its)
            answers = self._answers({*stays} - _killed(stages))
        self._replace(_killed(stages))
        return answers

    def _member(self, number: int) -> Member:
        if number not in self._members:
            self._members[number] = Member()
        return self._members[number]

    def _answers(self, numbers: set[int]) -> dict[int, Any]:
        waiting = {self._members[number].answers: number for number in numbers}
        answers = {}
        while waiting:
            ready = wait(list(waiting), PATIENCE)
            if not ready:
                stacks = [
                    f"member {n} hangs\n{self._members[n].stacks()}" for n in waiting.values()
                ]
                self.close()
                raise AssertionError("\n".join(stacks))
            for one in ready:
                assert isinstance(one, Connection)
                number = waiting.pop(one)
                try:
                    outcome, value = one.recv()
                except EOFError:
                    outcome, value = "died", ""
                if outcome != "returned":
                    self.close()
                    raise AssertionError(f"member {number} {outcome}\n{value}")
                answers[number] = value
        return answers

    def _replace(self, killed: set[int]) -> None:
        """The newcomer takes the place of the one that was killed."""
        for number in killed:
            self._members.pop(number).close()
            self._members[number] = self._members.pop(NEWCOMER)


def travel(case: Case, stays: list[Stay]) -> Report:
    """Trains a case in the worlds of ``stays``, as a worker of a run does."""
    from trainer.engine import gradients
    from trainer.protocol.channel import AgentChannel

    channel: Any = Itinerary(stays)
    AgentChannel._inherited = channel
    with pytest.MonkeyPatch.context() as patch:
        if case.buckets:
            patch.setattr(gradients, "BUCKET_BYTES", 1)
        trained = swell.train(case)
    return Report(trained, channel.started, channel.failed)


def _killed(stages: list[Stage]) -> set[int]:
    return {stage.members[stage.dies] for stage in stages if stage.dies is not None}


def _serve(calls: Connection, stacks: Connection) -> None:
    faulthandler.register(signal.SIGUSR1, stacks.fileno())
    while True:
        try:
            function, args = calls.recv()
        except EOFError:
            return
        try:
            answer = "returned", function(*args)
        except BaseException:
            answer = "raised", traceback.format_exc()
        calls.send(answer)
