"""Elections whose every operation on the store may come late, fail, or lose its answer.

The functions of trainer.protocol.lease run as they are, each contender in a thread of its own that
stops before every operation; Hypothesis says who goes on next, what becomes of the operation, and
how much time passes. Silence is no help to the leaders: every follower believes to hear nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from trainer.protocol.lease import (
    Claim,
    Contend,
    Follow,
    Watch,
    create_claim,
    last_announced,
    newest_claim,
    renew_claim,
    superseded,
)
from trainer.rundir.directory import RunDirectory
from trainer.rundir.retry import ONCE

NAMES = ("a", "b", "c")
CLOCKS = {"a": 0.0, "b": 1e6, "c": -3e5}  # seconds
T = TypeVar("T")
FINE, FAILS, LOST = "fine", "fails", "its answer is lost"


class Over(BaseException):
    """The test is over."""


class Turns:
    """Lets one of several threads go on at a time, up to its next operation."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._turn: tuple[str, str] | None = None  # whose, and what becomes of the operation
        self._over = False
        self.waiting: set[str] = set()

    def take(self) -> str:
        """Waits for this thread's next turn. Returns what becomes of its operation."""
        name = threading.current_thread().name
        with self._wake:
            self.waiting.add(name)
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._over or (self._turn and self._turn[0] == name))
            if self._over:
                raise Over
            assert self._turn is not None
            fate = self._turn[1]
            self._turn = None
            self.waiting.discard(name)
            return fate

    def give(self, name: str, fate: str) -> None:
        """Lets a thread do its operation, and returns when it has come to the next."""
        with self._wake:
            self._turn = name, fate
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._turn is None and name in self.waiting)

    def end(self) -> None:
        """Ends all threads."""
        with self._wake:
            self._over = True
            self._wake.notify_all()


class Slow:
    """A store in memory; every operation waits for its turn."""

    retry = ONCE

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.files: dict[str, bytes] = {}

    def names(self, folder: str) -> list[str]:
        return self._do(lambda: [one.removeprefix(f"{folder}/") for one in sorted(self.files)])

    def read(self, name: str, limit: int | None = None) -> bytes:
        def find() -> bytes:
            if name not in self.files:
                raise FileNotFoundError(name)
            return self.files[name]

        return self._do(find)

    def write(self, name: str, data: bytes) -> None:
        self._do(lambda: self.files.__setitem__(name, data))

    def create(self, name: str, data: bytes) -> bool:
        return self._do(lambda: self.files.setdefault(name, data) is data)

    def keep_spare(self, name: str) -> None:
        """It is on no disk."""

    def _do(self, operation: Callable[[], T]) -> T:
        fate = self._turns.take()
        if fate == FAILS:
            raise OSError("the store is away")
        answer = operation()
        if fate == LOST:
            raise OSError("the answer is lost")
        return answer


@dataclass
class Ran:
    """What came of it."""

    led: list[tuple[int, str]] = field(default_factory=list)
    ordered: list[tuple[int, int]] = field(default_factory=list)  # term, generation
    committed: list[tuple[int, int]] = field(default_factory=list)  # by term, generation
    obeyed: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in NAMES})


class Contender:
    """One agent, and its coordinator."""

    def __init__(self, name: str, run_dir: RunDirectory, turns: Turns, ran: Ran) -> None:
        self._name, self._run_dir, self._turns, self._ran = name, run_dir, turns, ran
        self.now = CLOCKS[name]
        self.wants_world = False

    def live(self) -> None:
        watch = Watch(timeout=1.0, doubt=0.4, gap=0.5, patience=0, now=self.now)
        while True:
            try:
                newest = newest_claim(self._run_dir)
                decision = watch.look(newest, self.now, silent=True)
                if isinstance(decision, Follow):
                    self._ran.obeyed[self._name].append(decision.claim.term)
                elif isinstance(decision, Contend):
                    known = newest.generation if newest else 0
                    self._contend(Claim(decision.term, f"{self._name}#1", "t", known))
            except OSError:
                self._turns.take()  # and looks again

    def _contend(self, claim: Claim) -> None:
        if not create_claim(self._run_dir, claim):
            return
        self._ran.led.append((claim.term, self._name))
        announced = last_announced(self._run_dir, claim.term)
        claim = replace(claim, generation=max(claim.generation, announced))
        ordered = claim.generation
        while True:
            generation = max(ordered + self.wants_world, claim.generation)
            claim = replace(claim, generation=generation, counter=claim.counter + 1)
            try:
                if not renew_claim(self._run_dir, claim):
                    self._commit(claim.term, ordered)  # its world may not know yet
                    return
            except OSError:
                continue
            if generation > ordered:
                self._turns.take()  # the order may be late, but it is given
                ordered = generation
                self._ran.ordered.append((claim.term, generation))
            else:
                self._commit(claim.term, ordered)

    def _commit(self, term: int, generation: int) -> None:
        """The world that it ordered, if it did, commits a checkpoint."""
        if (term, generation) not in self._ran.ordered:
            return
        try:
            if not superseded(self._run_dir, f"{term:06d}-{generation:06d}"):
                self._ran.committed.append((term, generation))
        except OSError:
            return


TURNS = st.tuples(
    st.sampled_from(NAMES),
    st.sampled_from([FINE, FINE, FINE, FINE, FINE, FAILS, LOST]),
    st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    st.sampled_from([1, 1, 2, 3, 5, 8, 13]),  # so many operations in a row
    st.booleans(),
)


@settings(deadline=None, max_examples=examples(200))
@given(st.lists(TURNS, min_size=10, max_size=60))
def test_leaders_may_overlap_but_what_they_order_does_not(
    script: list[tuple[str, str, float, int, bool]],
) -> None:
    ran, turns = Ran(), Turns()
    run_dir = RunDirectory("memory://election")
    run_dir.store = Slow(turns)  # type: ignore[assignment]
    contenders = {name: Contender(name, run_dir, turns, ran) for name in NAMES}

    def live(contender: Contender) -> None:
        try:
            contender.live()
        except Over:
            return

    threads = [
        threading.Thread(target=live, args=(contenders[name],), name=name, daemon=True)
        for name in NAMES
    ]
    for thread in threads:
        thread.start()
    try:
        with turns._wake:
            turns._wake.wait_for(lambda: turns.waiting == set(NAMES))
        for name, fate, seconds, count, wants_world in script:
            contenders[name].wants_world = wants_world
            for _ in range(count):
                for one in contenders.values():
                    one.now += seconds / count
                turns.give(name, fate)
                fate = FINE
    finally:
        turns.end()
        for thread in threads:
            thread.join(600)
    assert [*wrong(ran)] == []


def wrong(ran: Ran) -> Iterator[str]:
    """What must not be, whatever happened."""
    terms = [term for term, _ in ran.led]
    if len(terms) != len(set(terms)):
        yield "two leaders of one term"
    generations = [generation for _, generation in ran.ordered]
    if len(generations) != len(set(generations)):
        yield "two worlds with one number"
    by_generation = sorted(ran.ordered, key=lambda one: one[1])
    if [term for term, _ in by_generation] != sorted(term for term, _ in ran.ordered):
        yield "a deposed leader's world is newer than its successor's"
    if any(obeyed != sorted(obeyed) for obeyed in ran.obeyed.values()):
        yield "an agent obeyed a leader that it knew to be deposed"
    for earlier, later in zip(ran.committed, ran.committed[1:], strict=False):
        if later[0] < earlier[0] and later[1] < earlier[1]:
            yield "two lineages"
