"""``python -m trainer.check TASK``: what ``swell check`` runs."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from dataclasses import asdict

from trainer.check import world
from trainer.check.check import Checked, check, made, no_task
from trainer.check.units import units_of
from trainer.rundir.numbers import dumped
from trainer.rundir.usererror import Message
from trainer.task import Task


def main() -> int:
    """Checks the task that the command line names. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="swell check", add_help=False)
    parser.add_argument("task")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--args", type=json.loads, default={})
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    make = functools.partial(made, given.task, given.args)
    try:
        task = make()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        print(no_task(given.task, error), file=sys.stderr)
        return 2
    world.preload()
    checked = check(make, given.steps, given.world)
    if given.json:
        print(dumped(asdict(checked), indent=2))
    else:
        print("\n".join(_lines(checked, task, given.world)))
    return 1 if checked.findings else 0


def _lines(checked: Checked, task: Task, size: int) -> list[str]:
    lines = [str(Message(one.id, f"problem  {one.text}")) for one in checked.findings]
    alone, together = checked.alone, checked.together
    if together.losses:
        losses = ", ".join(f"{loss:.6g}" for loss in alone.losses)
        lines.append(f"losses   {losses}; in a world of {size} {checked.apart:.1g} of it apart")
    if alone.seconds:
        whole, data = sum(alone.seconds), sum(alone.data)
        each, part = whole / len(alone.seconds), data / whole if whole else 0.0
        memory, gpu = (one / 2**20 for one in alone.memory)
        on_gpu = f", {gpu:.0f} MiB of the GPU" if gpu else ""
        lines.append(f"time     {each:.3g} s a step, {part:.0%} of it for data")
        lines.append(f"memory   {memory:.0f} MiB at most{on_gpu}")
    if alone.units is not None:
        unit, reason = alone.units
        units = units_of(task, range(1, task.global_batch + 1))
        waits = (it for it in units.waits.items() if it[0] <= units.count)
        shown = ", ".join(f"{size}: {part:.0%}" for size, part in waits)
        lines.append(f"units    of {unit} samples, {units.count} a step: {reason}")
        lines.append(f"         workers wait for units, by their number: {shown or 'never'}")
    if not checked.findings:
        lines.append("ok       nothing is wrong with it")
    return lines


if __name__ == "__main__":
    sys.exit(main())
