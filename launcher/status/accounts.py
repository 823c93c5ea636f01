"""The accounts of a ledger, and a ledger: where the time of a run's VMs went, and their money.

Wall clock times the VMs that were wanted at each moment, from the submission of the first CustomJob
to the end of the run: every second of it is on exactly one account.

===============  =================================================================================
account          a VM's second
===============  =================================================================================
absent           it is wanted, and not there: queued, no capacity, taken away
starting         its agent imports, its model is made and compiled; and whatever comes before the
                 first step of a world in which nobody has trained before: loading a checkpoint
training         its workers compute steps that count
communication    they sum gradients, as far as that is not hidden behind computing
data_wait        they wait for their batches
waiting          they wait for the slowest
re_forming       the world changes: until that is found out, agreed upon, and the state has been
                 sent; a newcomer waits to be let in; the first step of a world, as far as it takes
                 longer than others
checkpoint       a step is held up by a checkpoint
repeated         steps that do not count: they were done again later, were left out, or are in no
                 checkpoint of a run that ended without success
evaluation       the model is evaluated
stopped          nobody trains: too few machines, or what follows the last step
===============  =================================================================================

**Goodput** is the part of it that is training: of the VMs that were wanted, of those that were
there (all but ``absent``), and of what these have cost.

What ranks do within steps they measure themselves (trainer.engine.timing). Durations are taken on
each VM's own clock, and clocks of VMs are not compared: see launcher.status.ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Account = Literal[
    "absent",
    "starting",
    "training",
    "communication",
    "data_wait",
    "waiting",
    "re_forming",
    "checkpoint",
    "repeated",
    "evaluation",
    "stopped",
]
ACCOUNTS: tuple[Account, ...] = get_args(Account)


@dataclass(frozen=True)
class Ledger:
    """Where the time of a run's VMs went.

    Attributes:
        since, until: of what time it is, in Unix seconds.
        seconds: of VMs, by account; all are there.
        usd: what the VMs have cost in them, estimated; None where a price is not known.
        on_demand: what its training would have cost on demand, with nothing lost; None likewise.
    """

    since: float
    until: float
    seconds: Mapping[Account, float]
    usd: Mapping[Account, float] | None = None
    on_demand: float | None = None

    @property
    def wanted(self) -> float:
        """Seconds of the VMs that were wanted; and of those that were there beside them."""
        return sum(self.seconds.values())

    @property
    def there(self) -> float:
        """Seconds of the VMs that were there."""
        return self.wanted - self.seconds["absent"]

    @property
    def goodput(self) -> float | None:
        """The part of the time of the VMs that were there in which they trained."""
        return _part(self.seconds["training"], self.there)

    @property
    def goodput_of_wanted(self) -> float | None:
        """The same of the VMs that were wanted."""
        return _part(self.seconds["training"], self.wanted)

    @property
    def spent(self) -> float | None:
        """What the VMs have cost, in USD, estimated."""
        return None if self.usd is None else sum(self.usd.values())

    @property
    def goodput_of_usd(self) -> float | None:
        """The part of that for which they trained."""
        return None if self.usd is None else _part(self.usd["training"], sum(self.usd.values()))

    @property
    def saving(self) -> float | None:
        """What was saved of the price of the same training on demand, with nothing lost.

        Spot's discount and all that is lost because of it, in one figure: below 0, it does not pay.
        """
        spent = self.spent
        if spent is None or not self.on_demand:
            return None
        return 1 - spent / self.on_demand

    def to_json(self) -> dict[str, Any]:
        """What ``swell goodput --json`` prints of it, and ``swell status --json``."""
        usd = self.usd
        return {
            "since": round(self.since, 3),
            "until": round(self.until, 3),
            "seconds": {name: round(self.seconds[name], 3) for name in ACCOUNTS},
            "wanted": round(self.wanted, 3),
            "there": round(self.there, 3),
            "goodput": {
                "there": _rounded(self.goodput),
                "wanted": _rounded(self.goodput_of_wanted),
                "usd": _rounded(self.goodput_of_usd),
            },
            "usd": None if usd is None else {name: round(usd[name], 4) for name in ACCOUNTS},
            "spent": _rounded(self.spent),
            "on_demand": _rounded(self.on_demand),
            "saving": _rounded(self.saving),
        }


def _part(some: float, of: float) -> float | None:
    return some / of if of > 0 else None


def _rounded(value: float | None) -> float | None:
    # Two digits more than are shown: who shows it rounds once more, as who has all of them does.
    return None if value is None else round(value, 6)
