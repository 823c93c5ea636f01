"""Who leads: an election with nothing but exclusive create in the run directory.

``leader/000007.json`` is the claim of term 7, made by whoever created it first. The
holder renews by rewriting its own claim with a higher counter. A follower measures
staleness with its own monotonic clock, and counts only time in which it looked, so clocks
of different machines are never compared, and whoever was frozen finds nobody stale. When the
newest claim is stale, the first to create the next number leads; whoever sees a higher
number than its own steps down.

A claim may be contended for before it is stale when its holder is silent on its stream, too,
or has said that it resigns. That is safe because two leaders at a time do no harm:

- Agents obey only the highest term that they have seen.
- A leader announces a generation in its claim before it orders it (``renew_claim``), and
  orders it only if it then finds no higher term. Its successor creates its own claim first,
  and reads the old one afterwards (``last_announced``). So one of the two sees the other:
  either the old one orders nothing more, or the new one knows what was ordered. No number of a
  generation is ever used twice, and whatever a deposed leader ordered, its successor takes over.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from trainer.protocol.world import MemberId
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import LEADER

TARGET_LIMIT = 100  # characters of an address and a port
AHEAD = 4  # terms for which there is room on a disk that is full


@dataclass(frozen=True)
class Claim:
    """The content of one leader file.

    Attributes:
        term: its number.
        member: who leads, as text.
        target: ``address:port`` of its coordinator.
        generation: the newest that was announced.
        counter: rises with every renewal.
        resigned: whether its holder leads no longer.
        attempt: whose certificate it shows.
    """

    term: int
    member: str
    target: str
    generation: int = 0
    counter: int = 0
    resigned: bool = False
    attempt: int = 1

    @property
    def leader(self) -> MemberId | None:
        """Who leads; None if the claim is damaged."""
        try:
            return MemberId.parse(self.member)
        except ValueError:
            return None


@dataclass(frozen=True)
class Follow:
    """Obey this claim."""

    claim: Claim


@dataclass(frozen=True)
class Contend:
    """Try to create the claim of this term."""

    term: int


@dataclass(frozen=True)
class Wait:
    """Neither is due yet."""


class Watch:
    """Decides from successive looks at the newest claim. Does no I/O. All times are in seconds.

    Args:
        timeout: time without renewal after which a claim is stale.
        doubt: the same for a claim whose holder is silent on its stream, too.
        gap: no more than this counts as observed between two looks.
        patience: time to leave the first claim to others; 0 for pool 0, which is the natural
            first leader.
        now: the time at which watching begins.
    """

    def __init__(
        self, timeout: float, doubt: float, gap: float, patience: float, now: float
    ) -> None:
        self._timeout = timeout
        self._doubt = doubt
        self._gap = gap
        self._patience = patience
        self._began = self._looked = now
        self._unmoved = 0.0  # how long the newest claim has been seen without a renewal
        self._last: tuple[int, int] | None = None
        self.term = 0  # the highest that was seen

    def look(
        self, newest: Claim | None, now: float, *, silent: bool = False, orphan: bool = False
    ) -> Follow | Contend | Wait:
        """Takes the newest claim as it is in the run directory at time ``now``.

        Args:
            newest: the claim.
            now: the time.
            silent: whether its holder is silent on the stream to it.
            orphan: whether it is the caller's own, and its coordinator has died.
        """
        observed, self._looked = min(now - self._looked, self._gap), now
        if newest is None:
            return Contend(1) if now - self._began >= self._patience else Wait()
        if newest.term < self.term:
            return Wait()  # an old answer
        self.term = newest.term
        seen = (newest.term, newest.counter)
        self._unmoved = self._unmoved + observed if seen == self._last else 0.0
        self._last = seen
        stale = self._unmoved > (self._doubt if silent else self._timeout)
        if stale or newest.resigned or orphan:
            return Contend(newest.term + 1)
        return Follow(newest)


_NUMBER = re.compile(r"[0-9]{6,9}\.json")  # what else is there is nobody's claim


def newest_term(run_dir: RunDirectory) -> int:
    """The highest number of a claim; 0 without any."""
    numbers = [
        int(name.removesuffix(".json"))
        for name in run_dir.store.names(LEADER)
        if _NUMBER.fullmatch(name)
    ]
    return max(numbers, default=0)


def newest_claim(run_dir: RunDirectory) -> Claim | None:
    """Reads the claim with the highest number; a damaged one counts as never renewed."""
    term = newest_term(run_dir)
    return read_claim(run_dir, term) if term else None


def read_claim(run_dir: RunDirectory, term: int) -> Claim:
    """Reads the claim of a term; a damaged one, or one that is gone, is nobody's.

    Raises OSError when the store does not say.
    """
    try:
        return _parse(run_dir.read_json(_name(term)), term)
    except (FileNotFoundError, ValueError, TypeError, OverflowError):
        return Claim(term, "", "")


def create_claim(run_dir: RunDirectory, claim: Claim) -> bool:
    """Claims a term. Returns whether this caller got it."""
    created = run_dir.create_json(_name(claim.term), asdict(claim))
    if created:  # a full disk deposes nobody, and lets those lead who come after
        for term in range(claim.term, claim.term + 1 + AHEAD):
            run_dir.store.keep_spare(_name(term))
    return created


def renew_claim(run_dir: RunDirectory, claim: Claim) -> bool:
    """Rewrites the holder's own claim. Returns False when there is a higher term after that."""
    run_dir.write_json(_name(claim.term), asdict(claim))
    return newest_term(run_dir) <= claim.term


def last_announced(run_dir: RunDirectory, term: int) -> int:
    """The newest generation that a leader before ``term`` announced, and may have ordered.

    To be asked after ``term`` was claimed: see the module's docstring.
    """
    newest = 0
    for earlier in range(term - 1, 0, -1):
        claim = read_claim(run_dir, earlier)
        newest = max(newest, claim.generation)
        if claim.counter:
            break  # since its first renewal it has repeated what those before it announced
    return newest


def superseded(run_dir: RunDirectory, world: str) -> bool:
    """Whether ``world`` (TERM-GENERATION) is over: a later leader has announced another one.

    Its ranks may not know it, cut off from everybody else. A leader that has only taken over the
    world, or the one that formed it and went on to the next, supersedes nothing: what that world
    began to write, it may complete.
    """
    term, _, generation = world.partition("-")
    if not (term.isdecimal() and generation.isdecimal()):
        return False  # it trains alone
    newest = newest_term(run_dir)
    return newest > int(term) and last_announced(run_dir, newest + 1) > int(generation)


def _name(term: int) -> str:
    return f"{LEADER}/{term:06d}.json"


def _parse(data: dict[str, Any], term: int) -> Claim:
    claim = Claim(
        term=int(data["term"]) if "term" in data else term,
        member=str(data.get("member", "")),
        target=str(data.get("target", "")),
        generation=int(data.get("generation", 0)),
        counter=int(data.get("counter", 0)),
        resigned=data.get("resigned") is True,
        attempt=int(data.get("attempt", 1)),
    )
    if claim.term != term:
        raise ValueError(f"the claim of term {term} says {claim.term}")
    if not 0 <= claim.generation < 2**31 or len(claim.target) > TARGET_LIMIT:
        raise ValueError(f"the claim of term {term} is damaged")
    return claim
