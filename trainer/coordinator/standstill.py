"""A world that comes to no step although all live: when to look, and what was seen. Pure.

Long before such a world is broken off (``stall`` in trainer.coordinator.limits), all agents are
asked once what their workers do, and again ever more seldom. Nothing is disturbed by it: what takes
so long may be an evaluation. A worker that shows no life (it is in a call that holds the GIL) is
killed much sooner; they are asked before that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from trainer.coordinator.whereabouts import Group, Seen, groups_of, in_words, ranks_in_words
from trainer.protocol import swell_pb2 as pb
from trainer.protocol.stacks import parse, render
from trainer.protocol.world import MemberId, World

USUAL = 10.0  # times its usual length that a step may take before anybody looks
PART = 0.5  # of the time after which the world is broken off; at the latest then
GROWS = 4.0  # times as long as at the last look the step has taken at the next one
ANSWER = 10.0  # seconds for all agents to answer
STACK_LIMIT = 64 * 2**10  # characters of one rank's stacks; an agent sends no more
TEXT_LIMIT = 2 * 2**20  # characters of all stacks together
REASON_LIMIT = 200  # characters of what an agent says of one rank


@dataclass(frozen=True)
class Report:
    """What was seen of a world.

    Attributes:
        generation: which.
        step: the newest that it has completed.
        seconds: for which there has been none since.
        groups: who does what.
        text: all stacks, those that are alike once.
    """

    generation: int
    step: int
    seconds: float
    groups: list[Group]
    text: str

    @property
    def reason(self) -> str:
        """Who waits in what, and who is elsewhere, in a line."""
        return in_words(self.groups)

    @property
    def name(self) -> str:
        """The file of the run directory that the stacks are for."""
        return f"stacks/{self.generation:06d}-{self.step:09d}-{self.seconds:.0f}s.txt"


@dataclass
class _Question:
    number: int
    world: World
    step: int
    since: float  # of the last step, and
    at: float  # of the question, in seconds of membership's clock
    seen: dict[int, Seen] = field(default_factory=dict)  # by rank


class Standstill:
    """Knows when to ask, and gathers the answers. All times are membership's, in seconds.

    Args:
        least: seconds without a step after which somebody looks, however short steps are.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._number = 0
        self._asked: _Question | None = None  # and not answered by all
        self._since: float | None = None  # the last step before what was looked at
        self._looked = 0.0  # how long there had been none by then

    def due(
        self,
        world: World | None,
        since: float,
        pace: float,
        stall: float,
        step: int,
        now: float,
        silent: bool = False,
    ) -> pb.Inspect | None:
        """The question to all members of ``world``, if it is time for one.

        Args:
            world: that which runs; None if none does.
            since: when its last step was completed, or it began.
            pace: the usual length of a step; 0 if that is not known.
            stall: the time without a step after which the world is broken off; infinite where steps
                are not known.
            step: steps completed.
            now: the time.
            silent: whether a worker shows no life, and will soon be given up for it: then at once.
        """
        if world is None or stall == float("inf"):
            self._asked = None
            return None
        if self._asked is not None and (self._asked.world, self._asked.since) != (world, since):
            self._asked = None  # it goes on
        took = now - since
        limit = 0.0 if silent else min(max(self._least, USUAL * pace), PART * stall)
        if since == self._since:
            limit = max(limit, GROWS * self._looked)
        if self._asked is not None or took < limit:
            return None
        self._number += 1
        self._since, self._looked = since, took
        self._asked = _Question(self._number, world, step, since, now)
        return pb.Inspect(number=self._number, generation=world.generation)

    def take(self, member: MemberId, answer: pb.Stacks) -> None:
        """An agent has answered; what was not asked, and other ranks, are passed over."""
        asked = self._asked
        if asked is None or answer.number != asked.number:
            return
        own = {place.rank for place in asked.world.places_of(member)}
        for one in answer.stacks:
            if one.rank in own:
                asked.seen[one.rank] = _seen(member, one)

    def report(self, now: float) -> Report | None:
        """What was seen, once all have answered, or have had the time; None before."""
        asked = self._asked
        if asked is None:
            return None
        size = asked.world.size
        if len(asked.seen) < size and now - asked.at < ANSWER:
            return None
        self._asked = None
        for rank in set(range(size)) - asked.seen.keys():
            asked.seen[rank] = Seen(rank, missing="its agent does not answer")
        generation, seconds = asked.world.generation, asked.at - asked.since
        groups = groups_of(asked.seen.values())
        head = f"generation {generation}, no step for {seconds:.0f} s after step {asked.step}"
        text = f"{head}\n{in_words(groups)}\n{_text(asked.seen.values())}"
        return Report(generation, asked.step, seconds, groups, text)


def _seen(member: MemberId, one: pb.Stack) -> Seen:
    """What an agent says of a rank, of which only what has the form of stacks is believed."""
    return Seen(
        rank=one.rank,
        replica=member.replica,
        text=render(parse(one.text[:STACK_LIMIT])),
        busy=one.busy,
        waits_for=one.waits_for[:REASON_LIMIT],
        collective=one.collective,
        ended=one.ended,
        missing=one.missing[:REASON_LIMIT],
    )


def _text(all_seen: Iterable[Seen]) -> str:
    """The stacks, each once, with those whose they are."""
    alike: dict[tuple[str, str], list[Seen]] = {}
    for one in sorted(all_seen, key=lambda seen: seen.rank):
        alike.setdefault((one.does, one.text), []).append(one)
    parts, length = [], 0
    for (does, stacks), some in alike.items():
        where = ", ".join(sorted({one.replica for one in some if one.replica})[:8])
        whose = ranks_in_words([one.rank for one in some])
        part = f"\n== {whose} ({where or 'unknown'}): {does}\n\n{stacks}\n"
        length += len(part)
        if length > TEXT_LIMIT:
            parts.append("\n== what else there is, is left out: it is too much\n")
            break
        parts.append(part)
    return "".join(parts)
