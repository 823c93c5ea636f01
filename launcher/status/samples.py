"""Which samples the applied steps used: the proof that each was used exactly once.

A worker notes its samples before it contributes them to a step (``trainer.engine.audit``), so a
line counts only if its step belongs to the stretch of steps that its generation owns. A step that
all ranks took again without being applied is withdrawn by a line of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic.dataclasses import dataclass

from launcher.records import STRICT, read_record
from trainer.rundir.directory import RunDirectory
from trainer.rundir.names import AUDIT
from trainer.rundir.store import TooLarge
from trainer.rundir.untrusted import parse_json

AUDIT_LIMIT = 2**28  # bytes of one worker's audit


@dataclass(frozen=True, config=STRICT)
class Contribution:
    """One line of an audit: what one rank gave to one step."""

    generation: int = -1
    step: int = -1
    epoch: int = -1
    dataset_size: int = -1
    ids: list[Any] | None = None
    left_out: bool = False
    withdrawn: bool = False


@dataclass(frozen=True)
class Account:
    """Which samples the applied steps used."""

    repeated: int
    skipped: int
    left_out: int
    epochs: list[dict[str, Any]]


def account(
    lines: Iterable[dict[str, Any]], stretches: list[tuple[int, int, int]], finished: bool
) -> Account | None:
    """Counts samples that an epoch used more than once, or not at all, or left out on purpose.

    Args:
        lines: the audit's lines; those of steps that did not count are left out.
        stretches: ``History.stretches()``.
        finished: whether the last epoch is over, too; one under way skips nothing yet.

    Returns None when no line counts.
    """
    owned = {generation: (first, last) for generation, first, last in stretches}
    used: dict[int, Counter[int]] = {}
    left: dict[int, set[int]] = {}
    sizes: dict[int, int] = {}
    for line in lines:
        one = read_record(Contribution, line)
        first, last = owned.get(one.generation, (1, 0))
        if not first <= one.step <= last or one.epoch < 0 or one.ids is None:
            continue
        ids = [i for i in one.ids if isinstance(i, int)]
        counts = used.setdefault(one.epoch, Counter())
        if one.left_out or one.withdrawn:  # a second line about them
            counts.subtract(ids)
        else:
            counts.update(ids)
        if one.left_out:
            left.setdefault(one.epoch, set()).update(ids)
        sizes[one.epoch] = max(one.dataset_size, sizes.get(one.epoch, 0))
    if not used:
        return None
    newest = max(used)
    repeated = skipped = left_out = 0
    epochs = []
    for epoch, every in sorted(used.items()):
        counts = +every
        out = left.get(epoch, set()) - counts.keys()
        twice = sum(counts.values()) - len(counts)
        missing = sizes[epoch] - len(counts) - len(out)
        over = finished or epoch < newest
        repeated += twice
        left_out += len(out)
        skipped += missing if over else 0
        epochs.append(
            {
                "epoch": epoch,
                "samples": sum(counts.values()),
                "left_out": len(out),
                "exactly_once": (twice == missing == len(out) == 0) if over else None,
            }
        )
    # An epoch before the newest of which no step is on record was skipped as a whole.
    absent = newest + 1 - len(used)
    return Account(repeated, skipped + absent * sizes[newest], left_out, epochs)


def read_audit(run_dir: RunDirectory) -> Iterator[dict[str, Any]]:
    """Yields the lines of all workers' audits."""
    for name in _files(run_dir):
        try:
            data = run_dir.store.read(name, AUDIT_LIMIT)
        except (OSError, TooLarge):
            continue
        for line in data.splitlines():
            try:
                value = parse_json(line)
            except ValueError:  # its writer was killed in the middle of it
                continue
            if isinstance(value, dict):
                yield value


def _files(run_dir: RunDirectory) -> Iterator[str]:
    """One file of each worker, or on an object store a folder of them."""
    for name in run_dir.store.names(AUDIT):
        path = f"{AUDIT}/{name}"
        if name.endswith(".jsonl"):
            yield path
        else:
            yield from (f"{path}/{one}" for one in run_dir.store.names(path))
