"""Who leads: an election with nothing but exclusive create in the run directory.

``leader/000007.json`` is the claim of epoch 7, made by whoever created it first. The
holder renews by rewriting its own claim with a higher counter. A follower measures
staleness with its own monotonic clock since it saw the counter change, so clocks of
different machines are never compared. When the newest claim is stale, the first to
create the next number leads; whoever sees a higher number than its own steps down.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from trainer.rundir import LEADER, RunDirectory
from trainer.world import MemberId


@dataclass(frozen=True)
class Claim:
    """The content of one leader file.

    Attributes:
        epoch: its number.
        member: who leads, as text.
        target: ``address:port`` of its coordinator.
        generation: the newest generation it formed.
        counter: rises with every renewal.
    """

    epoch: int
    member: str
    target: str
    generation: int = 0
    counter: int = 0

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
    """Try to create the claim of this epoch."""

    epoch: int


@dataclass(frozen=True)
class Wait:
    """Neither is due yet."""


class Watch:
    """Decides from successive looks at the newest claim. Does no I/O.

    Args:
        timeout: seconds without renewal after which a claim is stale.
        patience: seconds to leave the first claim to others; 0 for pool 0, which is
            the natural first leader.
        now: the time at which watching begins.
    """

    def __init__(self, timeout: float, patience: float, now: float) -> None:
        self._timeout = timeout
        self._patience = patience
        self._since = now
        self._last: tuple[int, int] | None = None

    def look(self, newest: Claim | None, now: float) -> Follow | Contend | Wait:
        """Takes the newest claim as it is in the run directory at time ``now``."""
        if newest is None:
            return Contend(1) if now - self._since >= self._patience else Wait()
        seen = (newest.epoch, newest.counter)
        if seen != self._last:
            self._last = seen
            self._since = now
        if now - self._since > self._timeout:
            return Contend(newest.epoch + 1)
        return Follow(newest)


def newest_claim(run_dir: RunDirectory) -> Claim | None:
    """Reads the claim with the highest number; a damaged one counts as never renewed."""
    numbers = [
        int(name.removesuffix(".json"))
        for name in run_dir.store.names(LEADER)
        if name.removesuffix(".json").isdecimal()
    ]
    if not numbers:
        return None
    epoch = max(numbers)
    try:
        return _parse(run_dir.read_json(_name(epoch)), epoch)
    except (OSError, ValueError, TypeError, OverflowError):
        return Claim(epoch, "", "")


def create_claim(run_dir: RunDirectory, claim: Claim) -> bool:
    """Claims an epoch. Returns whether this caller got it."""
    return run_dir.create_json(_name(claim.epoch), asdict(claim))


def renew_claim(run_dir: RunDirectory, claim: Claim) -> bool:
    """Rewrites the holder's own claim. Returns False when a higher epoch exists."""
    newest = newest_claim(run_dir)
    if newest is not None and newest.epoch > claim.epoch:
        return False
    run_dir.write_json(_name(claim.epoch), asdict(claim))
    return True


def _name(epoch: int) -> str:
    return f"{LEADER}/{epoch:06d}.json"


def _parse(data: dict[str, Any], epoch: int) -> Claim:
    claim = Claim(
        epoch=int(data["epoch"]) if "epoch" in data else epoch,
        member=str(data.get("member", "")),
        target=str(data.get("target", "")),
        generation=int(data.get("generation", 0)),
        counter=int(data.get("counter", 0)),
    )
    if claim.epoch != epoch:
        raise ValueError(f"the claim of epoch {epoch} says {claim.epoch}")
    return claim
