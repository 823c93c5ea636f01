"""Going back to an older checkpoint because training has gone wrong, and what is left out then.

``rollbacks.json`` in the run directory has the steps that are left out from now on, and how often
the run has gone back to which checkpoint. It is written after the newer checkpoints are gone: who
dies in between, and comes to the same step, goes back again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.checkpoints.leftovers import delete
from trainer.checkpoints.manifest import committed_steps
from trainer.checkpoints.restore import Exchange, shared
from trainer.rundir.directory import RunDirectory

FILE = "rollbacks.json"
NONE_GOOD = "there is no checkpoint that is known to be good"
OFTEN = 3  # times to one checkpoint; more, and it is not the samples


@dataclass(frozen=True)
class Rollbacks:
    """What a run has gone back to.

    Attributes:
        left_out: the steps that are left out, ascending.
        counts: how often it has gone back to the checkpoint of a step.
    """

    left_out: tuple[int, ...] = ()
    counts: dict[int, int] = field(default_factory=dict)

    def back(self, failed: int, to: int) -> Rollbacks:
        """After another one: step ``failed`` is left out, and step ``to`` is where it goes on."""
        counts = {**self.counts, to: self.counts.get(to, 0) + 1}
        return Rollbacks(tuple(sorted({*self.left_out, failed})), counts)

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        counts = {str(step): count for step, count in sorted(self.counts.items())}
        return {"left_out": list(self.left_out), "counts": counts}

    @classmethod
    def of(cls, run_dir: RunDirectory) -> Rollbacks:
        """Those of a run; a file that is damaged counts as none. Raises OSError."""
        try:
            found = run_dir.find_json(FILE) or {}
            left_out = tuple(int(step) for step in found.get("left_out", ()))
            counts = {int(step): int(n) for step, n in dict(found.get("counts", {})).items()}
        except (ValueError, TypeError):
            return cls()
        return cls(left_out, counts)


def go_back(
    run_dir: RunDirectory,
    places: Sequence[RunDirectory],
    exchange: Exchange,
    failed: int,
    good: int,
) -> tuple[int | None, str]:
    """Makes the newest good checkpoint the newest one. A collective: every rank calls it.

    Nobody may be writing a checkpoint any more.

    Args:
        run_dir: the run.
        places: the directories that have its checkpoints.
        exchange: the world.
        failed: the step that is to be left out from now on.
        good: checkpoints up to this step are known to be good.

    Returns the step that the run goes back to; or None, and why it cannot. Raises OSError.
    """
    exchange.worst(0)  # now nobody writes

    def found() -> list[Any]:
        steps = [(place, step) for place in places for step in committed_steps(place)]
        to = max((step for _, step in steps if step <= good), default=None)
        if to is None:
            return [None, NONE_GOOD]
        rollbacks = Rollbacks.of(run_dir)
        if rollbacks.counts.get(to, 0) >= OFTEN:
            return [None, f"it has gone back to the checkpoint of step {to} {OFTEN} times already"]
        for place, step in steps:
            if step > to:
                delete(place, step)
        run_dir.write_json(FILE, rollbacks.back(failed, to).to_json())
        return [to, ""]

    to, why = shared(exchange, found)
    return to, why
